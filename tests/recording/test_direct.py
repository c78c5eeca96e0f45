"""Files written past the page cache hold what files written through it do, whatever lies how in memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from thalweg.recording import direct
from thalweg.recording.direct import PAGE, empty_rows, padding, write_parts
from thalweg.recording.segments import encode


def part(size: int, seed: int, shift: int = 0) -> memoryview:
    """Random bytes that begin `shift` bytes behind a page."""
    room = np.random.default_rng(seed).integers(0, 256, size + 2 * PAGE, dtype=np.uint8)
    start = -room.ctypes.data % PAGE + shift
    return room[start : start + size].data


def knows_direct_writes(folder: Path) -> bool:
    """Asked of the system itself."""
    if not hasattr(os, "O_DIRECT"):
        return False
    try:
        os.close(os.open(folder / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        return False
    return True


@pytest.fixture
def passed_by(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that went past the cache, a number for each part that could; parts of 8 KiB are large here."""
    found: list[int] = []
    inner = direct._write_past_the_cache

    def watched(handle: int, one: memoryview) -> int:
        found.append(inner(handle, one))
        return found[-1]

    monkeypatch.setattr(direct, "LEAST", 2 * PAGE)
    monkeypatch.setattr(direct, "_write_past_the_cache", watched)
    return found


@pytest.mark.parametrize("first", [0, 8, 4095, 4096, 5000])
@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 50_001, 123_456])
@pytest.mark.parametrize("shift", [0, 16, 904])
def test_the_file_holds_every_part(tmp_path: Path, passed_by: list[int], first: int, size: int, shift: int) -> None:
    parts = [part(first, 0), part(size, 1, shift), part(333, 2), part(20_000, 3, 7)]
    path = tmp_path / "file"
    path.write_bytes(b"what was there before" * 99_999)
    write_parts(path, parts)
    assert path.read_bytes() == b"".join(parts)
    alike = size >= 2 * PAGE and (shift - first) % PAGE == 0
    if knows_direct_writes(tmp_path):
        assert (len(passed_by) > 0) == alike
        assert sum(passed_by) == (((size - (-shift % PAGE)) // PAGE) * PAGE if alike else 0)


@pytest.mark.parametrize("piece", [PAGE, 3 * PAGE])
def test_in_several_pieces(tmp_path: Path, passed_by: list[int], monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(direct, "PIECE", piece)
    parts = [part(64, 0), part(100_000, 1, 64)]
    write_parts(tmp_path / "file", parts)
    assert (tmp_path / "file").read_bytes() == b"".join(parts)
    assert len(passed_by) == 1


@pytest.mark.parametrize("after", [0, 3])
def test_a_file_system_that_would_not_is_written_to_all_the_same(
    tmp_path: Path, passed_by: list[int], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """It may refuse at once, or in the middle."""
    inner, left = os.write, [after]

    def refusing(handle: int, data: memoryview) -> int:
        if direct.fcntl.fcntl(handle, direct.fcntl.F_GETFL) & direct.DIRECT:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EINVAL, "no direct writes")
        return inner(handle, data)

    monkeypatch.setattr(direct, "PIECE", PAGE)
    monkeypatch.setattr(direct.os, "write", refusing)
    parts = [part(100_000, 1)]
    write_parts(tmp_path / "file", parts)
    assert (tmp_path / "file").read_bytes() == b"".join(parts)
    if direct.DIRECT:
        assert passed_by == [after * PAGE if knows_direct_writes(tmp_path) else 0]


def test_a_disk_that_fails_is_told(tmp_path: Path, passed_by: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(direct.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_parts(tmp_path / "file", [part(100_000, 1)])


def test_small_parts_need_no_padding_and_large_ones_lie_alike() -> None:
    assert padding(part(direct.LEAST - 1, 0, 40), 8) == 0
    assert padding(part(direct.LEAST, 0, 40), 8) == (32 if direct.DIRECT else 0)
    assert padding(part(direct.LEAST, 0, 8), 40) == (PAGE - 32 if direct.DIRECT else 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("count", "size"), [(2, 1), (5, 17_226), (3, 1023), (401, 7)])
def test_the_second_row_begins_at_a_page(dtype, count: int, size: int) -> None:  # type: ignore[no-untyped-def]
    rows = empty_rows(count, size, dtype)
    rows[:] = np.arange(count * size).reshape(count, size)
    assert rows.shape == (count, size)
    assert rows.dtype == dtype
    assert rows.flags.c_contiguous
    assert rows[1:].ctypes.data % PAGE == 0


def test_what_is_written_for_updates_goes_past_the_cache_and_is_read_by_others(
    tmp_path: Path, passed_by: list[int]
) -> None:
    rows = empty_rows(31, 1001, np.float32)
    rows[:] = np.random.default_rng(0).standard_normal(rows.shape)
    tensors = {"updates": torch.from_numpy(rows)[1:], "steps": torch.arange(30), "odd": torch.ones(3, dtype=torch.bool)}
    path = tmp_path / "file.safetensors"
    write_parts(path, encode(tensors, {"note": "x"}))
    found = load_file(path)
    assert {name: (t.dtype, t.tolist()) for name, t in found.items()} == {
        name: (t.dtype, t.tolist()) for name, t in tensors.items()
    }
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert length % 8 == 0
    if knows_direct_writes(tmp_path):
        assert passed_by == [30 * 1001 * 4 // PAGE * PAGE]
