"""The trajectory read back: Gram, inner products and directions in its span, against dense tensors."""

import pytest
import torch

from tests.recording.conftest import net, train
from thalweg.directions import DenseRows, Directions
from thalweg.errors import InputError
from thalweg.recording import TrajectoryRows, open_run, trajectory, watch

F64 = torch.float64


@pytest.fixture(params=["one block of columns", "many", "layers not kept"])
def streamed(request, monkeypatch):
    if request.param != "one block of columns":
        monkeypatch.setattr(trajectory, "STREAM_BYTES", 1)
        monkeypatch.setattr(trajectory, "MINIMUM_COLUMNS", 7)
    if request.param == "layers not kept":
        monkeypatch.setattr(trajectory, "GRAM_LIMIT", 10)


def test_gram_whole_and_per_layer(record, streamed):
    seen = record()
    t, u = seen.trajectory, seen.hand.updates.double()
    whole = t.gram()
    assert whole.dtype == F64
    assert float((whole - u @ u.T).norm() / (u @ u.T).norm()) < 1e-12
    for layer in t.space.layers:
        part = u[:, layer.span]
        torch.testing.assert_close(t.gram(layer.name), part @ part.T, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(sum(t.gram(layer.name) for layer in t.space.layers), whole)
    with pytest.raises(InputError, match="no layer is called '1'"):
        t.gram("1")


def test_the_file_is_read_once_for_all_grams(record, monkeypatch):
    t = record().trajectory
    reads = []
    stream = trajectory.Trajectory.stream
    monkeypatch.setattr(trajectory.Trajectory, "stream", lambda *a, **k: reads.append(1) or stream(*a, **k))
    t.gram("0"), t.gram(), t.gram("2"), t.gram()
    assert len(reads) == 1


def test_inner_products_with_every_kind_of_directions(record, streamed):
    seen = record()
    t, u = seen.trajectory, seen.hand.updates.double()
    e = torch.randn(3, t.space.size, generator=torch.Generator().manual_seed(1))
    expected = u @ e.double().T
    for given in (e, Directions(e), DenseRows(e)):
        torch.testing.assert_close(t.inner(given), expected)
    torch.testing.assert_close(t.inner(e[0]), expected[:, :1])
    c = torch.randn(2, len(t), generator=torch.Generator().manual_seed(2), dtype=F64)
    torch.testing.assert_close(t.inner(TrajectoryRows(t, c)), u @ (c @ u).T)
    again = open_run(seen.folder).trajectory
    torch.testing.assert_close(again.inner(TrajectoryRows(t, c)), u @ (c @ u).T, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"shape \(3, 9\) against updates of length 66"):
        t.inner(e[:, :9])


def test_rows_in_the_span_against_dense_rows(record, streamed):
    seen = record(dtype=F64)
    t, u = seen.trajectory, seen.hand.updates
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(k, len(t), generator=generator, dtype=F64) for k in (3, 4))
    a[:, :5] = 0
    v = torch.randn(2, t.space.size, generator=generator, dtype=F64)
    span = t.space.layer("2").span
    kept = torch.zeros_like(u)
    kept[:, span] = u[:, span]
    held = {None: u, "2": kept}
    for layer, base in held.items():
        rows, dense = TrajectoryRows(t, a, layer), DenseRows(a @ base, t.space)
        assert rows.shape == dense.shape
        torch.testing.assert_close(rows.inner(v), dense.inner(v))
        torch.testing.assert_close(rows.inner(v[0]), dense.inner(v[0]))
        torch.testing.assert_close(rows.combine(v[:, :3]), dense.combine(v[:, :3]))
        torch.testing.assert_close(rows.combine(v[0, :3]), dense.combine(v[0, :3]))
        torch.testing.assert_close(rows.dense(1), dense.dense(1))
        torch.testing.assert_close(rows.grams(), dense.grams())
        torch.testing.assert_close(rows.layer_energy(), dense.layer_energy())
        torch.testing.assert_close(rows.cross(DenseRows(v)), dense.cross(DenseRows(v)))
        torch.testing.assert_close(DenseRows(v).cross(rows), DenseRows(v).cross(dense))
        for other, other_base in held.items():
            expected = dense.cross(DenseRows(b @ other_base))
            torch.testing.assert_close(rows.cross(TrajectoryRows(t, b, other)), expected)
    one, two = TrajectoryRows(t, a, "0"), TrajectoryRows(t, b, "2")
    assert not one.cross(two).any()
    assert not one.combine(torch.ones(3, dtype=F64))[span].any()


def test_cross_makes_no_long_vector(record, monkeypatch):
    t = record().trajectory
    t.gram()
    monkeypatch.setattr(trajectory.Trajectory, "stream", None)
    eye = torch.eye(len(t), dtype=F64)
    torch.testing.assert_close(TrajectoryRows(t, eye[:3]).cross(TrajectoryRows(t, eye)), t.gram()[:3])


def test_directions_in_the_span_survive_saving(record, tmp_path):
    t = record().trajectory
    rows = TrajectoryRows(t, torch.eye(len(t), dtype=F64)[:2])
    Directions(rows, label="two updates").save(tmp_path / "d.safetensors")
    back = Directions.load(tmp_path / "d.safetensors")
    assert torch.equal(back.vectors, t.updates(0, 2))
    assert back.space.names == t.space.names


def test_windows_of_steps(record):
    t = record(steps=11, every=3).trajectory
    assert t.rows_in().tolist() == [0, 1, 2, 3]
    assert t.rows_in((0, 9)).tolist() == [0, 1, 2]
    assert t.rows_in((1, 11)).tolist() == [1, 2, 3]
    assert t.rows_in((3, 5)).tolist() == []
    assert t.updates(3, 5).shape == (0, t.space.size)


def test_weights_that_were_not_recorded(record):
    t = record(steps=5).trajectory
    with pytest.raises(InputError, match="after step 5: the nearest are 2, 3, 4; ask for one of"):
        t.weights(5)
    with pytest.raises(InputError, match="after step -2"):
        t.weights(-2)


def test_a_run_in_which_nothing_was_recorded(record):
    t = record(steps=0).trajectory
    assert len(t) == 0
    assert t.gram().shape == (0, 0)
    assert t.steps.tolist() == []
    assert t.learning_rates.shape == (0, 1)
    with pytest.raises(InputError, match="no row at all"):
        t.weights(-1)


def test_updates_that_are_too_many_to_hold(record, monkeypatch):
    t = record().trajectory
    monkeypatch.setattr(trajectory, "DENSE_LIMIT", 1000)
    with pytest.raises(InputError, match="ask for a shorter window"):
        t.updates(0, 40)
    assert len(t.updates(0, 3)) == 3


def test_reading_while_it_is_written(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []

    def after(step, loss):
        if step % 10 == 9:
            seen.append(open_run(tmp_path / "run").trajectory)

    with watch(model, optimizer, tmp_path / "run", segment_rows=3):
        hand = train(model, optimizer, 60, after)
    for t in seen:
        assert t.damaged == ()
        assert torch.equal(t.updates(0, 60), hand.updates[: len(t)])
    assert 0 < len(seen[-1]) < 60


def test_blocks_are_flushed_when_time_has_passed(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, tmp_path / "run", flush_seconds=1e-9):
        train(model, optimizer, 6)
    assert [len(s) for s in open_run(tmp_path / "run").trajectory.segments] == [1] * 6
