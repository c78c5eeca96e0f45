"""Segments: what is in the file, and what is never read as data."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from thalweg.errors import RunError
from thalweg.recording import differences, open_run
from thalweg.recording.differences import to_updates
from thalweg.recording.segments import encode
from thalweg.recording.store import checksum_of


def segment_files(folder):
    return sorted((folder / "segments").iterdir())


def reopened(folder, match, count=1, **options):
    with pytest.warns(RuntimeWarning, match=match) as caught:
        t = open_run(folder, **options).trajectory
    assert len(caught) == 1
    assert len(t.damaged) == count
    return t


def test_a_segment_is_a_safetensors_file_that_names_its_rows_and_checksum(record):
    seen = record(steps=20)
    files = segment_files(seen.folder)
    assert [f.name[:13] for f in files] == ["000000-000007", "000007-000014", "000014-000020"]
    assert [f.name[14:22] for f in files] == [checksum_of(f) for f in files]
    held = load_file(str(files[1]))
    assert torch.equal(held["updates"], seen.hand.updates[7:14])
    assert torch.equal(held["anchor"], seen.hand.weights[7])
    assert held["steps"].tolist() == list(range(7, 14))
    assert held["learning_rates"].tolist() == [[0.1]] * 7


def test_encoded_bytes_are_read_by_the_safetensors_library(tmp_path):
    tensors = {
        "a": torch.arange(6, dtype=torch.float32).view(2, 3).T,
        "nothing": torch.empty(0, 4, dtype=torch.float64),
        "flag": torch.tensor(True),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "one of many": torch.arange(8, dtype=torch.float64).view(4, 2)[:1, 1],
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"".join(encode(tensors, {"note": 'a "quoted"\n name'})))
    back = load_file(str(path))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype


@pytest.mark.parametrize("tile", [8, 5_000, 2**17, 2**30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_patches_make_sums_exact(monkeypatch, dtype, tile):
    monkeypatch.setattr(differences, "TILE_BYTES", tile)
    generator = np.random.default_rng(4)
    size = 40_000 if tile > 8 else 50
    weights = (generator.standard_normal((9, size)) * 10.0 ** generator.integers(-9, 3, (9, size))).astype(dtype)
    weights[3, :4] = [np.inf, -0.0, np.nan, -np.inf]
    weights[5, :3] = [np.nan, np.inf, 1.0]
    given = weights.copy()
    patches = to_updates(weights)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(weights[1:], given[1:] - given[:-1])
        now = weights[0].copy()
        unpatched = 0
        for row in range(8):
            now += weights[row + 1]
            here = patches.rows == row
            unpatched += int((now != given[row + 1]).sum())
            now[patches.columns[here]] = patches.values[here]
            np.testing.assert_array_equal(now, given[row + 1])
        np.testing.assert_array_equal(patches.finite, np.isfinite(given[1:] - given[:-1]).all(axis=1))
    assert unpatched > size // 40
    assert patches.finite.tolist() == [True, True, False, False, False, False, True, True]


def test_flags_of_a_segment_of_the_version_before_are_computed(record):
    seen = record(steps=6)
    file = segment_files(seen.folder)[0]
    held = load_file(str(file))
    with safe_open(str(file), framework="pt") as opened:
        metadata = opened.metadata()
    del held["finite"]
    held["updates"][2, 5] = torch.nan
    file.unlink()
    save_file(held, str(file), metadata)
    file.rename(file.with_name(f"000000-000006.{checksum_of(file)}.safetensors"))
    segment = open_run(seen.folder).trajectory.segments[0]
    assert segment.finite.tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize("where", ["header", "updates", "end"])
def test_a_flipped_byte_is_named_and_left_out(record, where):
    seen = record(steps=20)
    file = segment_files(seen.folder)[1]
    data = bytearray(file.read_bytes())
    data[{"header": 3, "updates": len(data) // 2, "end": -1}[where]] ^= 0x10
    file.write_bytes(data)
    t = reopened(seen.folder, f"{file.name}: its bytes do not have the checksum")
    assert t.damaged[0][0] == file.name
    assert t.steps.tolist() == [*range(7), *range(14, 20)]
    assert t.gaps == ((7, 14),)
    assert torch.equal(t.updates(0, 20), torch.cat([seen.hand.updates[:7], seen.hand.updates[14:]]))
    assert torch.equal(t.weights(17), seen.hand.weights[18])
    assert torch.equal(t.weights(13), seen.hand.weights[14])


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_segment_is_named_with_and_without_checksums(record, keep, verify):
    seen = record(steps=20)
    file = segment_files(seen.folder)[2]
    file.write_bytes(file.read_bytes()[:keep])
    t = reopened(seen.folder, file.name, verify=verify)
    assert t.steps.tolist() == list(range(14))
    assert t.gaps == ((14, 20),)


def test_foreign_files_are_named(record):
    seen = record(steps=20)
    other = record(steps=20, folder="other")
    folder = seen.folder / "segments"
    segment_files(seen.folder)[1].unlink()
    stranger = segment_files(other.folder)[1]
    shutil.copy(stranger, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "000099-000100.00000000.safetensors").mkdir()
    plain = folder / "plain.safetensors"
    save_file({"updates": torch.zeros(1, 66)}, str(plain))
    plain.rename(folder / f"000050-000051.{checksum_of(plain)}.safetensors")
    t = reopened(seen.folder, "4 segment", 4)
    reasons = dict(t.damaged)
    assert reasons["notes.txt"] == "its name is no segment's name"
    assert reasons[stranger.name] == "it belongs to another run"
    assert "cannot be read" in reasons["000099-000100.00000000.safetensors"]
    assert sum("no segment that this version writes" in reason for reason in reasons.values()) == 1
    assert t.gaps == ((7, 14),)


def test_a_renamed_or_doubled_segment_is_named(record):
    seen = record(steps=20)
    file = segment_files(seen.folder)[2]
    file.rename(file.with_name(file.name.replace("000014-000020", "000020-000026")))
    t = reopened(seen.folder, "its name and its content disagree")
    assert len(t) == 14


def test_what_a_killed_writer_leaves_is_no_damage(record):
    seen = record(steps=20)
    (seen.folder / "segments" / ".000020-000027.tmp123").write_bytes(b"half a segm")
    t = open_run(seen.folder).trajectory
    assert t.damaged == ()
    assert len(t) == 20


def test_folders_that_are_no_run(record, tmp_path):
    with pytest.raises(RunError, match="does not exist"):
        open_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"has no manifest\.json; record one with"):
        open_run(tmp_path / "empty")
    seen = record(steps=5)
    path = seen.folder / "manifest.json"
    good = json.loads(path.read_text())
    path.write_text(path.read_text()[:-30])
    with pytest.raises(RunError, match="cannot be read"):
        open_run(seen.folder)
    for missing in ("space", "run", "dtype", "every", "optimizer"):
        path.write_text(json.dumps({key: value for key, value in good.items() if key != missing}))
        with pytest.raises(RunError, match=f"lacks something .*'{missing}'"):
            open_run(seen.folder)
    path.write_text(json.dumps(good | {"dtype": "__class__"}))
    with pytest.raises(RunError, match="damaged"):
        open_run(seen.folder)
