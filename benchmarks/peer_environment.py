"""An environment of the peers' own, on top of the torch that thalweg itself runs with; and what machine this is."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
HOME = HERE / ".venv"
REQUIREMENTS = HERE / "peer_requirements.txt"
PINNED = ("curvlinops-for-pytorch", "hessian-eigenthings", "PyHessian")


def peer_python() -> Path:
    """The interpreter of the peers' environment, which is made where it is missing or its pins have changed.

    The peers are installed before this environment's packages are put behind them, and without their dependencies:
    one asks for torchvision, which breaks beside another build of torch.
    """
    python = HOME / "bin" / "python"
    done = HOME / ".done"
    stamp = f"{sys.version}\n{REQUIREMENTS.read_text()}"
    if done.is_file() and done.read_text() == stamp:
        return python
    print(f"making {HOME} for the peers", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(HOME)], check=True)
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(REQUIREMENTS)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    paths = {"base": str(HOME), "platbase": str(HOME)}
    own = Path(sysconfig.get_path("purelib", vars=paths))
    (own / "thalweg_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done.write_text(stamp)
    return python


def child_environment() -> dict[str, str]:
    """Environment variables of a contestant's process: this repository's modules first."""
    places = [str(ROOT), str(ROOT / "src")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONWARNINGS": "ignore"}


def machine(command: str, threads: int) -> str:
    """Processor, versions, date and command, as Markdown.

    Args:
        command: how to get the figures again.
        threads: of torch.
    """
    found = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s+(\d+)", _read("/proc/meminfo"))
    pins = [line for line in REQUIREMENTS.read_text().splitlines() if line.split("==")[0] in PINNED]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    state = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return "\n".join(
        [
            f"- Command: `{command}`, {datetime.date.today().isoformat()}",
            f"- Processor: {found[1] if found else platform.processor()}, {os.cpu_count()} cores, "
            f"{int(memory[1]) / 2**20 if memory else float('nan'):.0f} GiB; torch on {threads} threads; "
            f"load when this was written {load:.1f}",
            f"- thalweg {version('thalweg')} at {state.stdout.strip() or 'no commit'}; {versions}; "
            f"Python {platform.python_version()}; {platform.system()} {platform.release()}",
            f"- Peers: {', '.join(pins)}",
        ]
    )


def write_section(path: Path, name: str, text: str) -> None:
    """Put a section into a Markdown file, over its former self where there is one.

    Args:
        path: the file.
        name: of the section; kept in comments around it.
        text: without the comments.
    """
    start, stop = f"<!-- {name} -->", f"<!-- end of {name} -->"
    whole = path.read_text(encoding="utf-8") if path.is_file() else "# Benchmarks\n\nWritten by `make bench`.\n"
    section = f"{start}\n{text.strip()}\n{stop}"
    if start in whole and stop in whole:
        head, tail = whole.split(start)[0], whole.split(stop, 1)[1]
        whole = head + section + tail
    else:
        whole = whole.rstrip() + f"\n\n{section}\n"
    path.write_text(whole, encoding="utf-8")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
