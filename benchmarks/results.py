"""What the benchmark scripts share: their options, the way through the workloads, and the file that gathers tables.

Each script writes a section about itself and one for each workload, between comments that name them. A section is
put where ORDER has its name, whenever it is made, so that the workloads can be run one by one over a day.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from benchmarks.peer_environment import machine
from benchmarks.peer_measure import say
from benchmarks.workloads import WORKLOADS, load, prepare

RESULTS = Path(__file__).parent / "RESULTS.md"
SCRIPTS = (
    "peers",
    "peers given",
    "products",
    "batched",
    "overhead",
    "layers",
    "warm",
    "growth",
    "recording",
    "pca",
    "sketch",
    "drift",
    "trials",
    "trial_arms",
    "fine_tune",
    "first_minutes",
    "guarding",
    "surfaces",
    "second_opinion",
    "ranks",
)
PARTS = (
    "about",
    *WORKLOADS,
    "samples",
    "parameters",
    "pairs",
    "exact",
    "long",
    "large",
    "trainings",
    "tasks",
    "digits",
    "characters",
    "plot",
    "level",
    "power",
    "directions",
    "half-lives",
    "nothing",
    "least",
    "planted",
    "coverage",
    "300",
    "919",
    "compression",
    "walk",
    "same",
    "memory",
    "ended",
    "gpu",
)
ORDER = [f"{script}: {part}" for script in SCRIPTS for part in PARTS]
_SECTION = re.compile(r"<!-- (?!end of )([^>]*?) -->\n(.*?)\n<!-- end of \1 -->\n*", re.DOTALL)
_BEGINNING = "# Benchmarks\n\nWritten by `make bench`."


def options(module: str, about: str | None, repeats: int) -> argparse.ArgumentParser:
    """The options that every script knows.

    Args:
        module: of the script, without its package.
        about: its docstring.
        repeats: unless given.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=(about or "").splitlines()[0])
    parser.add_argument("--workload", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; checks that everything runs, times nothing")
    parser.add_argument("--out", type=Path, default=None, help="Markdown file; benchmarks/RESULTS.md unless --quick")
    return parser


class Report:
    """Prints sections, and puts each into the file as soon as it is made.

    Args:
        script: its name among SCRIPTS.
        module: of the script, without its package.
        about: the heading, and how it was measured.
        chosen: the options.
        arguments: the command's, None for those of this process.
        peers: whether the peers' versions are told.

    Attributes:
        out: the file, None where nothing is written.
    """

    def __init__(
        self,
        script: str,
        module: str,
        about: str,
        chosen: argparse.Namespace,
        arguments: Sequence[str] | None,
        peers: bool = False,
    ) -> None:
        self.script = script
        self.about = about
        self.out: Path | None = chosen.out or (None if chosen.quick else RESULTS)
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
        given = sys.argv[1:] if arguments is None else arguments
        self.command = " ".join([f"python -m benchmarks.{module}", *given])
        self.peers = peers
        self._busy = _load()

    def section(self, part: str, title: str, lines: Sequence[str], place: bool = True) -> None:
        """Print a section and write it.

        Args:
            part: its name among PARTS.
            title: its heading.
            lines: of Markdown.
            place: whether to say on which machine it was made.
        """
        text = "\n".join([f"### {title}", "", *lines])
        if place:
            text += "\n\n" + machine(self.command, torch.get_num_threads(), self._busy, self.peers)
        print(text + "\n", flush=True)
        if self.out is not None:
            write_section(self.out, f"{self.script}: about", self.about)
            write_section(self.out, f"{self.script}: {part}", text)
        self._busy = _load()


def through_workloads(
    report: Report,
    chosen: argparse.Namespace,
    measure: Callable[[Path], Sequence[str]],
    given_only: bool = False,
    checkpoints: Sequence[int] = (),
) -> None:
    """Prepare each workload, measure it, and write its section.

    Args:
        report: where the sections go.
        chosen: the options.
        measure: from the workload's folder to lines of Markdown.
        given_only: nobody is to try other batches than the given ones.
        checkpoints: numbers of steps before the last one, whose weights are kept too.
    """
    for name in chosen.workload:
        with tempfile.TemporaryDirectory() as scratch:
            say(f"{name}: training")
            folder = prepare(name, Path(scratch), chosen.quick, given_only, checkpoints)
            title = load(folder).title
            report.section(name, title, measure(folder))


def write_section(path: Path, name: str, text: str) -> None:
    """Put a section into a Markdown file, over its former self where there is one, in the order of ORDER.

    Text that stands outside the sections keeps its place at the beginning (up to the first heading of second rank) or
    at the end.

    Args:
        path: the file.
        name: of the section; kept in comments around it.
        text: without the comments.
    """
    whole = path.read_text(encoding="utf-8") if path.is_file() else _BEGINNING
    sections = dict(_SECTION.findall(whole))
    sections[name] = text.strip()
    head, mark, tail = _SECTION.sub("", whole).partition("\n## ")
    known = [one for one in ORDER if one in sections]
    others = [one for one in sections if one not in ORDER]
    parts = [f"<!-- {one} -->\n{sections[one]}\n<!-- end of {one} -->" for one in known + others]
    rest = [f"## {tail.strip()}"] if mark else []
    path.write_text("\n\n".join([head.strip(), *parts, *rest]) + "\n", encoding="utf-8")


def _load() -> float:
    with contextlib.suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return float("nan")
