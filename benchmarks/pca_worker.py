"""One way to the principal components of a recorded run, in a process of its own.

    python -m benchmarks.pca_worker MODE thalweg RUN_FOLDER OUT.json SETTINGS.json

The modes: `make` writes the run, `rates` measures what the floor is made of, the others compute components.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.peer_measure import forget_peak, peak, say, seconds
from torch import nn

from thalweg.recording import Trajectory, open_run
from thalweg.recording.manifest import write_json
from thalweg.recording.segments import SegmentContent, write_segment
from thalweg.recording.store import SEGMENTS
from thalweg.runs import FORMAT, MANIFEST
from thalweg.solvers.gram import update_pca
from thalweg.space import ParameterSpace

DENSE = "updates.npy"
"""The same updates as one array, for scikit-learn."""
DIMENSIONS = 40
NOISE = 0.01
"""Standard deviation of what fills the other dimensions; the first singular value is near sqrt(T P)."""
SCALE = 1e-3
SEGMENT_BYTES = 2**31
CHECKED = 20_000
"""Entries of the first layer, whose values are held against LAPACK's in float64."""

Result = dict[str, Any]


def make(folder: Path, settings: dict[str, Any]) -> Result:
    """Write a run whose updates have singular values that fall as 1/i, and noise; and the array beside it if wanted.

    Args:
        folder: of the run.
        settings: rows, size, dense.
    """
    rows, size = settings["rows"], settings["size"]
    checked = min(CHECKED, size // 2)
    space = ParameterSpace.of(
        nn.Sequential(nn.Linear(checked, 1, bias=False), nn.Linear(size - checked, 1, bias=False))
    )
    about = {"format": FORMAT, "run": "0" * 32, "space": space.to_json(), "dtype": "float32", "every": 1, "buffers": []}
    about |= {"optimizer": {"class": "none", "state_at_start": False, "groups": [{}]}, "model": "made", "budget": None}
    (folder / SEGMENTS).mkdir(parents=True)
    write_json(folder / MANIFEST, about)
    generator = torch.Generator().manual_seed(0)
    dimensions = max(1, min(DIMENSIONS, SEGMENT_BYTES // (4 * size)))
    basis = torch.randn(dimensions, size, generator=generator) * SCALE
    basis /= torch.arange(1, dimensions + 1)[:, None]
    height = max(1, min(64, SEGMENT_BYTES // (4 * size) - 1))
    weights = 0.05 * torch.randn(size, generator=generator)
    for first in range(0, rows, height):
        count = min(height, rows - first)
        block = torch.empty(count + 1, size)
        block[0] = weights
        for row in range(1, count + 1):
            torch.randn(size, generator=generator, out=block[row]).mul_(NOISE * SCALE)
        block[1:].addmm_(torch.randn(count, dimensions, generator=generator), basis)
        for row in range(1, count + 1):
            block[row] += block[row - 1]
        weights = block[count].clone()
        write_segment(folder / SEGMENTS, content(block, first))
        del block
    if settings["dense"]:
        write_dense(folder)
    return {}


def content(block: torch.Tensor, first: int) -> SegmentContent:
    """What a segment with these weights holds.

    Args:
        block: the weights before the first row and after each.
        first: number of the first row.
    """
    count = len(block) - 1
    none = np.full((count, 1), np.nan)
    steps = np.arange(first, first + count, dtype=np.int64)
    return SegmentContent("0" * 32, first, first - 1, block, steps, none, none.copy(), np.zeros(count), {}, {})


def write_dense(folder: Path) -> None:
    """The run's updates as one array.

    Args:
        folder: of the run.
    """
    t = open_run(folder, verify=False).trajectory
    out = np.lib.format.open_memmap(folder / DENSE, "w+", np.float32, (len(t), t.space.size))
    begin = 0
    for segment in t.segments:
        out[begin : begin + len(segment)] = segment.updates().numpy()
        begin += len(segment)
    out.flush()


def forget_files(folder: Path) -> None:
    """Ask the system to drop its copies of the run's files, so that they come from the disk.

    Args:
        folder: of the run.
    """
    for path in [*(folder / SEGMENTS).iterdir(), *folder.glob(DENSE)]:
        with path.open("rb") as file, contextlib.suppress(OSError, AttributeError):
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rates(folder: Path, settings: dict[str, Any]) -> Result:
    """Seconds to read the run's updates in order, from the disk and again, and multiply-adds a second.

    Args:
        folder: of the run.
        settings: none are used.
    """
    side = settings["side"]
    found: Result = {"threads": torch.get_num_threads()}
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        a = torch.randn(side, side, dtype=dtype)
        found[name] = side**3 / seconds(lambda a=a: a @ a, repeats=5)
    forget_files(folder)
    found["bytes"], found["read_cold"] = read_through(folder)
    _, found["read_warm"] = read_through(folder)
    return found


def read_through(folder: Path) -> tuple[int, float]:
    """Bytes of all segments, and the seconds to read them in order.

    Args:
        folder: of the run.
    """
    start, total = time.perf_counter(), 0
    buffer = bytearray(2**23)
    for path in sorted((folder / SEGMENTS).iterdir()):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total, time.perf_counter() - start


def ours(folder: Path, settings: dict[str, Any]) -> Result:
    """Components by thalweg: opening, coefficients and values, then the dense vectors, then all of it once more.

    Args:
        folder: of the run.
        settings: method, k, passes, tol, dense_vectors, checked.
    """
    options = {key: settings[key] for key in ("method", "passes", "tol") if key in settings}
    remove_copy(folder)
    forget_files(folder)
    before = forget_peak()
    start = time.perf_counter()
    t: Trajectory = open_run(folder, verify=False).trajectory
    found = update_pca(t, settings["k"], **options)
    assert found.values is not None
    assert found.residuals is not None
    end = time.perf_counter()
    result: Result = {
        "seconds": end - start,
        "peak": peak(),
        "before": before,
        "values": singular(found.values, len(t)),
    }
    result |= {
        "residual": float((found.residuals / found.values[0]).max()),
        "passes": found.provenance.get("passes", 1),
    }
    if settings["dense_vectors"]:
        found.vectors  # noqa: B018 - made, and timed
        result["vectors"] = time.perf_counter() - end
    if settings.get("checked"):
        result["all_values"] = torch.linalg.eigvalsh(t.gram(center=True)).flip(0).clamp(min=0).sqrt().tolist()
        result["lapack"] = against_lapack(t)
        start = time.perf_counter()
        update_pca(open_run(folder, verify=False).trajectory, settings["k"], **options)
        result["again"] = time.perf_counter() - start
        start = time.perf_counter()
        len(open_run(folder).trajectory)
        result["checksums"] = time.perf_counter() - start
    return result


def remove_copy(folder: Path) -> None:
    """Remove the Gram matrices that an earlier process kept.

    Args:
        folder: of the run.
    """
    for path in folder.glob("results/*"):
        path.unlink()


def singular(variances: torch.Tensor, rows: int) -> list[float]:
    """Singular values of the centred updates.

    Args:
        variances: along each component.
        rows: T.
    """
    found: list[float] = (variances * (rows - 1)).sqrt().tolist()
    return found


def against_lapack(t: Trajectory) -> float:
    """Largest difference of the first layer's singular values from LAPACK's in float64, as a share of the first.

    Args:
        t: the run.
    """
    layer = t.space.layers[0]
    dense = torch.cat([segment.updates(columns=layer.span) for segment in t.segments]).double()
    truth = torch.linalg.svdvals(dense)
    values = torch.linalg.eigvalsh(t.gram(layer.name)).flip(0).clamp(min=0).sqrt()
    return float((values[: len(truth)] - truth).abs().max() / truth[0])


def scikit_learn(folder: Path, settings: dict[str, Any]) -> Result:
    """Components by scikit-learn, from the array.

    Args:
        folder: of the run.
        settings: solver, k.
    """
    from sklearn.decomposition import PCA

    forget_files(folder)
    before = forget_peak()
    start = time.perf_counter()
    found = PCA(settings["k"], svd_solver=settings["solver"], random_state=0).fit(np.load(folder / DENSE))
    end = time.perf_counter()
    return {"seconds": end - start, "peak": peak(), "before": before, "values": found.singular_values_.tolist()}


MODES: dict[str, Callable[[Path, dict[str, Any]], Result]] = {
    "make": make,
    "rates": rates,
    "thalweg": ours,
    "scikit-learn": scikit_learn,
}


def main(arguments: list[str]) -> None:
    mode, _, folder, out, given = arguments
    settings = json.loads(Path(given).read_text())
    say(f"  {mode} {', '.join(f'{key} {value}' for key, value in settings.items())}")
    result = MODES[mode](Path(folder), settings)
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
