"""Principal components of a recorded run: exact and randomised, beside scikit-learn and beside the floor.

    python -m benchmarks.pca [--part exact long large] [--repeats 1] [--scratch FOLDER] [--quick]

The runs are made, not trained: updates of known rank in noise. They take 8, 41 and 33 GB of disk, one after the other.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pca_worker import Result
from benchmarks.peer_environment import OURS, child
from benchmarks.peer_measure import say
from benchmarks.results import Report, options
from benchmarks.workloads import WORKLOADS

K = 10
MEBI = 2**20

ABOUT = """\
## Principal components of a recorded run

Updates whose singular values fall as 1/i over 40 dimensions (4 of the largest run), in noise
of 3e-4 of the first. *seconds*: from the file to
the first components and their values; the file's pages were dropped from the system's memory before, as far as it does
that when asked; the run is opened without comparing checksums, whose time is given apart, since the other array has
none. *peak memory*: of the whole process, libraries included (in brackets its growth). Each in a process of its own;
medians of the repeats. scikit-learn reads the same updates from one .npy file. *floor*: reading the file in order, from
the disk and for each further pass once more, and the multiply-adds at the rate of a large square product in the same
precision, both measured just before and not overlapped: T²P for the exact way, though half of them suffice, since the
Gram matrix is symmetric; 2 T P (k + 10) for each pass of the randomised way."""


@dataclass(frozen=True)
class Part:
    """One run and what is asked of it.

    Attributes:
        title: of its table.
        rows: T.
        size: P.
        quick: rows and size for a check in seconds.
        peers: whether scikit-learn is asked too.
        exact: whether the Gram matrix is asked for.
        randomized: whether the randomised way is.
    """

    title: str
    rows: int
    size: int
    quick: tuple[int, int]
    peers: bool
    exact: bool
    randomized: bool


PARTS = {
    "exact": Part("T = 1,000, P = 1,000,000", 1000, 1_000_000, (60, 3000), True, True, True),
    "long": Part("T = 10,000, P = 1,000,000, ten components", 10_000, 1_000_000, (300, 2000), False, False, True),
    "large": Part("T = 50, P = 124,000,000", 50, 124_000_000, (10, 50_000), False, True, False),
}


def measured(part: Part, run: Path, repeats: int, quick: bool) -> tuple[Result, dict[str, Result]]:
    """The floor's parts, and each way's figures.

    Args:
        part: what is asked.
        run: its folder, which is made here.
        repeats: medians by seconds are taken over so many.
        quick: tiny sizes.
    """
    rows, size = part.quick if quick else (part.rows, part.size)
    out = run.with_name("result.json")
    child("pca_worker", "make", OURS, run, out, {"rows": rows, "size": size, "dense": part.peers})
    floor = child("pca_worker", "rates", OURS, run, out, {"side": 200 if quick else 3000}) | {
        "rows": rows,
        "size": size,
    }
    common = {"k": min(K, rows // 3), "dense_vectors": size <= 2_000_000}
    ways: dict[str, tuple[str, dict[str, Any]]] = {}
    if part.exact:
        ways["thalweg, exact"] = ("thalweg", common | {"method": "exact", "checked": part.peers})
    if part.randomized:
        ways["thalweg, randomised"] = ("thalweg", common | {"method": "randomized"})
    if part.peers:
        ways["scikit-learn, full"] = ("scikit-learn", {"k": None, "solver": "full"})
        ways["scikit-learn, randomised"] = ("scikit-learn", {"k": common["k"], "solver": "randomized"})
    found = {}
    for name, (mode, settings) in ways.items():
        say(name)
        try:
            runs = [child("pca_worker", mode, OURS, run, out, settings) for _ in range(repeats)]
        except RuntimeError as error:
            say(f"{name} failed: {error}")
            continue
        found[name] = sorted(runs, key=lambda one: one["seconds"])[(len(runs) - 1) // 2]
    return floor, found


def floor_seconds(name: str, floor: Result, result: Result, k: int) -> float:
    """Reading and multiplying at the measured rates.

    Args:
        name: of the way.
        floor: its parts.
        result: of the way.
        k: components.
    """
    rows, size = floor["rows"], floor["size"]
    passes = result.get("passes", 1)
    products = 2 * passes * rows * size * (k + 10) if "randomised" in name else rows**2 * size
    rate = floor["float64" if name.startswith("thalweg") else "float32"]
    return float(floor["read_cold"] + (passes - 1) * floor["read_warm"] + products / rate)


def table(floor: Result, found: dict[str, Result]) -> list[str]:
    """The figures of one run as Markdown.

    Args:
        floor: its parts.
        found: figures of each way.
    """
    lines = [
        "| | seconds | floor | peak memory, MiB (growth) | passes | residual / λ₁ | k dense vectors, seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        least = floor_seconds(name, floor, one, K)
        beside = f"{least:.2f} ({one['seconds'] / least:.2f}×)" if name.startswith("thalweg") else ""
        memory = f"{one['peak'] / MEBI:,.0f} ({(one['peak'] - one['before']) / MEBI:,.0f})"
        residual = f"{one['residual']:.1e}" if "residual" in one else ""
        vectors = f"{one['vectors']:.2f}" if "vectors" in one else ""
        passes = one.get("passes", "")
        lines.append(f"| {name} | {one['seconds']:.2f} | {beside} | {memory} | {passes} | {residual} | {vectors} |")
    gigabytes = floor["bytes"] / 1e9
    return [
        *lines,
        "",
        *compared(found),
        f"The segments are {gigabytes:.2f} GB: read in order in {floor['read_cold']:.2f} s from the disk and in "
        f"{floor['read_warm']:.2f} s again. Multiply-adds a second: {floor['float64'] / 1e9:.1f}e9 in float64, "
        f"{floor['float32'] / 1e9:.1f}e9 in float32, on {floor['threads']} threads. An exact Gram matrix has "
        f"{8 * floor['rows'] ** 2 / 1e6:,.1f} MB.",
    ]


def compared(found: dict[str, Result]) -> list[str]:
    """What the ways say of each other, a sentence a line.

    Args:
        found: figures of each way.
    """
    said = []
    for kind in ("exact", "randomised"):
        mine, peer = found.get(f"thalweg, {kind}"), found.get(f"scikit-learn, {'full' if kind == 'exact' else kind}")
        if mine and peer:
            said.append(
                f"{kind.capitalize()}: **{peer['seconds'] / mine['seconds']:.2f}× as fast** as scikit-learn, with "
                f"{mine['peak'] / peer['peak']:.3f} of its peak memory."
            )
    exact = found.get("thalweg, exact", {})
    if "lapack" in exact:
        said.append(
            f"All singular values of one layer against LAPACK's in float64: at most {exact['lapack']:.1e} of the first "
            f"apart. The same question from the copy in the run folder: {exact['again']:.2f} s. Opening with all "
            f"checksums compared: {exact['checksums']:.2f} s more."
        )
    truth = exact.get("all_values") or exact.get("values")
    for name, one in found.items():
        if truth and name != "thalweg, exact":
            apart = max(abs(a - b) for a, b in zip(one["values"], truth, strict=False)) / truth[0]
            said.append(
                f"Singular values of {name} ({len(one['values'])}): at most {apart:.1e} of the first from exact."
            )
    return [line + "  " for line in said] + ([""] if said else [])


def main(arguments: Sequence[str] | None = None) -> None:
    parser: argparse.ArgumentParser = options("pca", __doc__, repeats=1)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--scratch", type=Path, default=None, help="where the runs are made; needs up to 41 GB")
    chosen = parser.parse_args(arguments)
    if set(chosen.workload) != set(WORKLOADS):
        say("pca has runs of its own; nothing to do for some workloads")
        return
    report = Report("pca", "pca", ABOUT, chosen, arguments)
    if chosen.scratch is not None:
        chosen.scratch.mkdir(parents=True, exist_ok=True)
    for name in chosen.part:
        with tempfile.TemporaryDirectory(dir=chosen.scratch) as scratch:
            say(f"{name}: making the run")
            floor, found = measured(PARTS[name], Path(scratch) / "run", chosen.repeats, chosen.quick)
        title = PARTS[name].title if not chosen.quick else f"T = {floor['rows']}, P = {floor['size']:,}"
        report.section(name, title, table(floor, found))


if __name__ == "__main__":
    main()
