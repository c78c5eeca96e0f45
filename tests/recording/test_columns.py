"""Columns read ahead of the work: which, in what order, and how much of them is held at a time."""

import threading
import time
import weakref

import pytest
import torch

from tests.recording.test_trajectory import small_tiles
from thalweg.errors import RunError
from thalweg.recording import columns
from thalweg.recording.columns import parts_of, tiles
from thalweg.recording.store import Segment


@pytest.mark.parametrize("rows", [(0, 40), (3, 25), (8, 9), (14, 21)])
@pytest.mark.parametrize("where", [(0, 66), (5, 6), (13, 50)])
def test_tiles_are_the_columns_in_order(record, monkeypatch, rows, where):
    small_tiles(monkeypatch)
    seen = record()
    u = seen.hand.updates[rows[0] : rows[1]].double()
    blank = torch.arange(rows[1] - rows[0]) % 5 == 1
    u[blank] = 0
    end = where[0]
    for here, tile in tiles(parts_of(seen.trajectory.segments, *rows), slice(*where), blank):
        assert here.start == end
        assert here.stop - here.start <= 7
        end = here.stop
        assert tile.dtype == torch.float64
        assert torch.equal(tile, u[:, here])
    assert end == where[1]


def test_nothing_gives_no_tiles(record):
    t = record().trajectory
    assert list(tiles([], slice(0, 66))) == []
    assert list(tiles(parts_of(t.segments, 0, 40), slice(5, 5))) == []


def test_tiles_are_at_least_as_wide_as_asked(record, monkeypatch):
    small_tiles(monkeypatch)
    parts = parts_of(record().trajectory.segments, 0, 40)
    assert [here.stop - here.start for here, _ in tiles(parts, slice(0, 66), least=20)] == [20, 20, 20, 6]


def test_two_slabs_are_held_at_the_most(record, monkeypatch):
    small_tiles(monkeypatch)
    monkeypatch.setattr(columns, "SLAB_BYTES", 7 * 4 * 40)
    t = record().trajectory
    held, most = set(), []
    updates = Segment.updates

    def watched(self, *where):
        found = updates(self, *where)
        mark = object()
        held.add(mark)
        weakref.finalize(found, held.discard, mark)
        most.append(len(held))
        return found

    monkeypatch.setattr(Segment, "updates", watched)
    for _ in tiles(parts_of(t.segments, 0, 40), slice(0, 66)):
        time.sleep(0.01)  # the reader could run far ahead now
    assert len(most) == 10 * 6
    assert max(most) == 2 * 6
    assert not held


def test_a_reader_that_fails_and_one_that_is_left(record, monkeypatch):
    small_tiles(monkeypatch)
    seen = record()
    parts = parts_of(seen.trajectory.segments, 0, 40)
    begun = tiles(parts, slice(0, 66))
    next(begun)
    begun.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("thalweg-reader")]
    begun = tiles(parts, slice(0, 66))
    next(begun)
    path = parts[3][0].path
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RunError, match="has become shorter"):
        list(begun)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("thalweg-reader")]
