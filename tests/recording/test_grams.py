"""The copy of the Gram matrices in the run folder: used again, extended, never trusted without cause."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.recording.conftest import net, train
from tests.recording.test_trajectory import every_step_is_a_row, reads, small_tiles  # noqa: F401 - fixtures
from thalweg.errors import RunError
from thalweg.recording import grams, open_run, watch

COPY = f"results/{grams.FILE}"


@pytest.fixture(autouse=True)
def always_kept(monkeypatch):
    """Even of runs so small that the copy is larger than the updates."""
    monkeypatch.setattr(grams, "CACHE_SHARE", 1e9)


@pytest.fixture
def multiplied(monkeypatch):
    """`(known rows, all rows)` of every multiplication."""
    calls = []
    add = grams.add_grams

    def watched(matrices, tiles, layers, known):
        calls.append((known, matrices.shape[1]))
        add(matrices, tiles, layers, known)

    monkeypatch.setattr(grams, "add_grams", watched)
    return calls


def test_the_second_time_nothing_is_read(record, reads, multiplied):  # noqa: F811
    seen = record()
    first = seen.trajectory.gram()
    assert sum(reads) == 40 * 66
    assert multiplied == [(0, 40)]
    again = open_run(seen.folder).trajectory
    assert torch.equal(again.gram(), first)
    assert torch.equal(again.gram("2"), seen.trajectory.gram("2"))
    assert sum(reads) == 40 * 66
    assert len(multiplied) == 1


def without(folder, hidden, name="part"):
    """A copy of a run that lacks some segments, by number."""
    part = folder.parent / name
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder, part)
    for number, path in enumerate(sorted((part / "segments").glob("*.safetensors"))):
        if number in hidden:
            path.unlink()
    return part


@pytest.mark.parametrize("tiles", ["one tile", "many"])
def test_of_a_run_that_has_grown_only_new_rows_are_multiplied(record, reads, multiplied, monkeypatch, tiles):  # noqa: F811
    if tiles == "many":
        small_tiles(monkeypatch)
    seen = record()
    u = seen.hand.updates.double()
    part = without(seen.folder, {3, 4, 5})
    t = open_run(part).trajectory
    assert len(t) == 21
    torch.testing.assert_close(t.gram(), u[:21] @ u[:21].T, rtol=1e-10, atol=1e-15)
    for path in (seen.folder / "segments").glob("*.safetensors"):
        shutil.copy(path, part / "segments" / path.name)
    reads.clear(), multiplied.clear()
    grown = open_run(part).trajectory
    torch.testing.assert_close(grown.gram(), u @ u.T, rtol=1e-10, atol=1e-15)
    for layer in grown.space.layers:
        columns = u[:, layer.span]
        torch.testing.assert_close(grown.gram(layer.name), columns @ columns.T, rtol=1e-10, atol=1e-15)
    assert multiplied == [(21, 40)]
    assert sum(reads) == 40 * 66  # the old rows are one side of the new products
    reads.clear()
    assert torch.equal(open_run(part).trajectory.gram(), grown.gram())
    assert not reads


@pytest.mark.filterwarnings("ignore:.*left out.*:RuntimeWarning")
def test_segments_that_went_and_came_back(record, multiplied):
    seen = record()
    u = seen.hand.updates.double()
    seen.trajectory.gram()
    part = without(seen.folder, {1})  # the copy knows more than there is
    rows = torch.cat([torch.arange(7), torch.arange(14, 40)])
    torch.testing.assert_close(open_run(part).trajectory.gram(), u[rows] @ u[rows].T, rtol=1e-10, atol=1e-15)
    assert multiplied == [(0, 40)]
    (part / COPY).unlink()
    open_run(part).trajectory.gram()
    for path in (seen.folder / "segments").glob("*.safetensors"):
        shutil.copy(path, part / "segments" / path.name)
    torch.testing.assert_close(open_run(part).trajectory.gram(), u @ u.T, rtol=1e-10, atol=1e-15)
    assert multiplied[-1] == (33, 40)  # the rows in the middle come last, and are put where they belong


@pytest.mark.filterwarnings("ignore:.*are not finite and are left out.*:RuntimeWarning")
def test_rows_that_are_not_finite_stay_out_of_the_copy(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def after(step, loss):
        if step == 14:
            model[2].bias.data[0] = torch.inf

    with watch(model, optimizer, tmp_path / "run", segment_rows=7):
        train(model, optimizer, 20, after)
    t = open_run(tmp_path / "run").trajectory
    u = t.updates(0, 20).double()
    u[15:] = 0
    torch.testing.assert_close(t.gram(), u @ u.T)
    again = open_run(tmp_path / "run").trajectory
    torch.testing.assert_close(again.gram(), u @ u.T)
    assert again.rows_left_out == 5


def rewritten(path, **changes):
    """The copy with another head."""
    with safe_open(path, framework="pt") as file:
        head, tensors = json.loads(file.metadata()["about"]), {"grams": file.get_tensor("grams")}
    metadata = {"format": changes.pop("format", grams.FORMAT), "about": json.dumps(head | changes)}
    save_file(tensors, path, metadata=metadata)


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-30] ^= 64
    path.write_bytes(data)


DAMAGE = {
    "a flipped bit": flipped,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "words": lambda path: path.write_text("no safetensors at all"),
    "another run": lambda path: rewritten(path, run="0" * 32),
    "another format": lambda path: rewritten(path, format="thalweg-directions-1"),
    "no object": lambda path: save_file(
        {"grams": torch.ones(1)}, path, metadata={"format": grams.FORMAT, "about": "3"}
    ),
    "no segments": lambda path: rewritten(path, segments=None),
    "rows that do not add up": lambda path: rewritten(path, segments=[["a", 3]]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_copy_that_cannot_be_trusted_is_made_anew(record, multiplied, kind):
    seen = record()
    truth = seen.trajectory.gram()
    DAMAGE[kind](seen.folder / COPY)
    t = open_run(seen.folder).trajectory
    with pytest.warns(RuntimeWarning, match=r"gram\.cache\.safetensors is not used \(.*made anew"):
        assert torch.equal(t.gram(), truth)
    assert multiplied == [(0, 40), (0, 40)]
    assert torch.equal(open_run(seen.folder).trajectory.gram(), truth)
    assert len(multiplied) == 2


def test_a_head_that_counts_rows_wrongly_shifts_nothing(record, multiplied):
    seen = record()
    truth = seen.trajectory.gram()
    names = [[segment.path.name, len(segment)] for segment in seen.trajectory.segments]
    names[1][1], names[2][1] = 6, 8
    rewritten(seen.folder / COPY, segments=names)
    torch.testing.assert_close(open_run(seen.folder).trajectory.gram(), truth, rtol=1e-12, atol=1e-18)
    assert multiplied[-1] == (26, 40)


def test_a_copy_of_other_layers_is_made_anew_without_a_word(record, multiplied, monkeypatch):
    seen = record()
    monkeypatch.setattr(grams, "LAYERS_LIMIT", 10)
    whole = open_run(seen.folder).trajectory.gram()
    monkeypatch.undo()
    monkeypatch.setattr(grams, "CACHE_SHARE", 1e9)
    t = open_run(seen.folder).trajectory
    torch.testing.assert_close(sum(t.gram(layer.name) for layer in t.space.layers), whole)


def test_a_folder_that_cannot_be_written(record, monkeypatch):
    seen = record()
    (seen.folder / "results").write_text("in the way")
    u = seen.hand.updates.double()
    torch.testing.assert_close(seen.trajectory.gram(), u @ u.T, rtol=1e-10, atol=1e-15)
    (seen.folder / "results").unlink()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(grams, "replace_synced", full)
    torch.testing.assert_close(open_run(seen.folder).trajectory.gram(), u @ u.T, rtol=1e-10, atol=1e-15)
    assert list((seen.folder / "results").iterdir()) == []  # nothing half-written is left


def test_a_new_run_in_the_folder_has_its_own(record):
    record().trajectory.gram()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = record(overwrite=True, steps=20)
        u = seen.hand.updates.double()
        torch.testing.assert_close(seen.trajectory.gram(), u @ u.T, rtol=1e-10, atol=1e-15)


def test_the_copy_is_no_result(record):
    seen = record()
    seen.trajectory.gram()
    run = open_run(seen.folder)
    with pytest.raises(RunError, match="no name for a result"):
        run.load_directions("gram.cache")


def test_small_runs_get_no_copy(record, monkeypatch):
    monkeypatch.setattr(grams, "CACHE_SHARE", 0.5)
    seen = record()
    seen.trajectory.gram()
    assert not (seen.folder / "results").exists()


def test_how_many_rows_a_copy_holds(record):
    seen = record()
    t = seen.trajectory
    about = (seen.folder, t.manifest["run"], t.segments, t.space)
    assert grams.cached_rows(*about) == 0
    t.gram()
    assert grams.cached_rows(*about) == 40
    assert grams.cached_rows(seen.folder, "other", t.segments, t.space) == 0
    assert grams.cached_rows(seen.folder, t.manifest["run"], t.segments[:2], t.space) == 14
