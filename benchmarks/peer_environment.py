"""Processes of the contestants' own, the peers' in an environment of their own; and what machine this is."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
HOME = HERE / ".venv"
REQUIREMENTS = HERE / "peer_requirements.txt"
OURS = "thalweg"
"""What the names of contestants begin with that need no environment of their own."""

PINNED = ("curvlinops-for-pytorch", "hessian-eigenthings", "PyHessian")


def peer_python(requirements: Path = REQUIREMENTS, home: Path = HOME) -> Path:
    """The interpreter of the peers' environment, which is made where it is missing or its pins have changed.

    The peers are installed before this environment's packages are put behind them, and without their dependencies:
    one asks for torchvision, which breaks beside another build of torch.

    Args:
        requirements: the peers with their pins.
        home: where the environment is made.
    """
    python = home / "bin" / "python"
    done = home / ".done"
    stamp = f"{sys.version}\n{requirements.read_text()}"
    if done.is_file() and done.read_text() == stamp:
        return python
    print(f"making {home} for the peers", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(home)], check=True)
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(requirements)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    paths = {"base": str(home), "platbase": str(home)}
    own = Path(sysconfig.get_path("purelib", vars=paths))
    (own / "thalweg_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done.write_text(stamp)
    return python


def child(
    module: str, mode: str, name: str, folder: Path, out: Path, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Run a worker in a process of its own, pass on what it says, and give back what it wrote.

    Args:
        module: of the worker, without its package.
        mode: what it is to do.
        name: of the contestant; the peers' names get the peers' environment.
        folder: of the workload.
        out: where it writes JSON.
        settings: written beside that for it.

    Raises:
        RuntimeError: if the process fails.
    """
    python = sys.executable if name.startswith(OURS) else str(peer_python())
    given = out.with_suffix(".settings.json")
    given.write_text(json.dumps(settings or {}))
    command = [python, "-m", f"benchmarks.{module}", mode, name, str(folder), str(out), str(given)]
    said: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, env=child_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if line.startswith("["):  # what `say` prints; tracebacks are kept for the error
                print(line, end="", file=sys.stderr, flush=True)
    if process.returncode:
        raise RuntimeError(f"{mode} of {name} failed:\n{''.join(said)[-3000:]}")
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def machine(command: str, threads: int, busy: float, peers: bool) -> str:
    """Command, date, processor, load and versions, in one paragraph.

    Args:
        command: how to get the figures again.
        threads: of torch.
        busy: load before it began.
        peers: whether to name the peers' versions.
    """
    found = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s+(\d+)", _read("/proc/meminfo"))
    pins = [line for line in REQUIREMENTS.read_text().splitlines() if line.split("==")[0] in PINNED]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    state = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT)
    return " ".join(
        [
            f"`{command}`, {datetime.date.today().isoformat()}.",
            f"{found[1] if found else platform.processor()}, {os.cpu_count()} cores, "
            f"{int(memory[1]) / 2**20 if memory else float('nan'):.0f} GiB; torch on {threads} threads; "
            f"load before the start {busy:.2f}.",
            f"thalweg {version('thalweg')} at {state.stdout.strip() or 'no commit'}; {versions}; "
            f"Python {platform.python_version()}; {platform.system()} {platform.release()}.",
            *([f"Peers: {', '.join(pins)}."] if peers else []),
        ]
    )


def child_environment() -> dict[str, str]:
    """Environment variables of a contestant's process: this repository's modules first."""
    places = [str(ROOT), str(ROOT / "src")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONWARNINGS": "ignore"}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
