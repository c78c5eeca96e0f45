"""The trajectory read back: Gram, inner products and directions in its span, against dense tensors."""

import pytest
import torch

from tests.recording.conftest import net, train, wait_for_the_disk
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.recording import TrajectoryRows, columns, grams, open_run, products, trajectory, watch
from thalweg.recording.store import Segment
from thalweg.rows import DenseRows
from thalweg.space import Layer

F64 = torch.float64


@pytest.fixture(autouse=True)
def every_step_is_a_row(monkeypatch):
    wait_for_the_disk(monkeypatch)


def small_tiles(monkeypatch):
    """Slabs of 14 columns, tiles of 7, and blocks of 5 rows."""
    monkeypatch.setattr(columns, "SLAB_BYTES", 14 * 4 * 40)
    monkeypatch.setattr(columns, "LEAST_READ", 1)
    monkeypatch.setattr(columns, "TILE_BYTES", 1)
    monkeypatch.setattr(columns, "LEAST_COLUMNS", 7)
    monkeypatch.setattr(grams, "GRAM_COLUMNS", 7)
    monkeypatch.setattr(products, "LEAST_ROWS", 1)


@pytest.fixture(params=["one tile", "many", "layers not kept", "no Gram matrix"])
def streamed(request, monkeypatch):
    if request.param != "one tile":
        small_tiles(monkeypatch)
    if request.param == "layers not kept":
        monkeypatch.setattr(grams, "LAYERS_LIMIT", 10)
    if request.param == "no Gram matrix":
        monkeypatch.setattr(trajectory, "EXACT_ROWS", 0)


@pytest.fixture
def reads(monkeypatch):
    """Numbers of updates read so far, in a list that grows."""
    seen = []
    updates = Segment.updates

    def counted(self, *where):
        found = updates(self, *where)
        seen.append(found.numel())
        return found

    monkeypatch.setattr(Segment, "updates", counted)
    return seen


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


def test_energies_are_squared_lengths(record, streamed, reads):
    seen = record()
    t, u = seen.trajectory, seen.hand.updates.double()
    torch.testing.assert_close(t.energies(), u.square().sum(dim=1), rtol=1e-12, atol=0)
    for layer in t.space.layers:
        torch.testing.assert_close(t.energies(layer.name), u[:, layer.span].square().sum(dim=1), rtol=1e-12, atol=0)
    torch.testing.assert_close(t.energies("2", (5, 23)), u[5:23, t.space.layer("2").span].square().sum(dim=1))
    assert sum(reads) == len(t) * t.space.size  # once for all of them
    with pytest.raises(InputError, match="no layer is called '1'"):
        t.energies("1")


def test_whether_the_gram_matrix_has_room(record, monkeypatch):
    t = record().trajectory
    assert t.has_room_for_gram
    monkeypatch.setattr(trajectory, "WHOLE_LIMIT", 8 * len(t) ** 2 - 1)
    assert not t.has_room_for_gram
    with pytest.raises(InputError, match="more than the limit"):
        t.gram()
    torch.testing.assert_close(t.energies().sqrt(), t.updates(0, 40).double().norm(dim=1), rtol=1e-12, atol=0)


def test_the_file_is_read_once_for_all_grams(record, reads, streamed):
    t = record().trajectory
    t.gram()
    assert sum(reads) == len(t) * t.space.size
    if grams.LAYERS_LIMIT > 10:
        t.gram("0"), t.gram(), t.gram("2"), t.gram(window=(0, 5))
        assert sum(reads) == len(t) * t.space.size
    else:  # a layer's own is made from its own columns
        t.gram("0"), t.gram()
        assert sum(reads) == len(t) * (t.space.size + t.space.layer("0").size)


def test_a_layer_alone_needs_no_other_column(record, reads, monkeypatch):
    monkeypatch.setattr(grams, "LAYERS_LIMIT", 10)
    t = record().trajectory
    t.gram("2")
    assert sum(reads) == len(t) * t.space.layer("2").size


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_singular_values_of_a_wide_spectrum(dtype):
    """Singular values down to 1e-7 of the first, where float32 products are wrong by more than all of it."""
    generator = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(500, 30, generator=generator, dtype=F64)).Q.T * torch.logspace(0, -7, 30)[:, None]
    u = (torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=F64)).Q @ u).to(dtype)
    gram = torch.zeros(1, 30, 30, dtype=F64)
    spans = [slice(a, min(a + 64, 500)) for a in range(0, 500, 64)]
    products.add_grams(gram, ((here, u[:, here].double()) for here in spans), [Layer("", 0, 0, 500)])
    truth = torch.linalg.svdvals(u.double())

    def error(found):
        values = torch.linalg.eigvalsh(found).flip(0).clamp(min=0).sqrt()
        return float((values - truth).abs().max() / truth[0])

    assert error(gram[0]) < 2e-8
    if dtype == torch.float32:  # the likely shortcut, which must fail here
        assert error(sum((u[:, here] @ u[:, here].T).double() for here in spans)) > 1e-6


def test_the_window_and_the_mean_of_a_gram(record, streamed):
    seen = record()
    t, u = seen.trajectory, seen.hand.updates.double()
    rows = u[5:23]
    torch.testing.assert_close(t.gram(window=(5, 23)), rows @ rows.T, rtol=1e-10, atol=1e-15)
    moved = rows - rows.mean(dim=0)
    torch.testing.assert_close(t.gram(window=(5, 23), center=True), moved @ moved.T, rtol=1e-9, atol=1e-15)
    part = moved[:, t.space.layer("2").span]
    torch.testing.assert_close(t.gram("2", (5, 23), center=True), part @ part.T, rtol=1e-9, atol=1e-15)


def test_of_a_long_run_only_the_window_is_multiplied(record, reads, monkeypatch):
    monkeypatch.setattr(trajectory, "EXACT_ROWS", 10)
    seen = record()
    t, u = seen.trajectory, seen.hand.updates.double()
    torch.testing.assert_close(t.gram(window=(9, 30)), u[9:30] @ u[9:30].T, rtol=1e-10, atol=1e-15)
    assert sum(reads) == 21 * 66
    part = u[9:30, t.space.layer("2").span]
    torch.testing.assert_close(t.gram("2", (9, 30)), part @ part.T, rtol=1e-10, atol=1e-15)
    assert sum(reads) == 21 * (66 + t.space.layer("2").size)
    t.gram()
    before = sum(reads)
    torch.testing.assert_close(t.gram("2", (9, 30)), part @ part.T, rtol=1e-10, atol=1e-15)
    assert sum(reads) == before


def test_a_gram_that_is_too_large_is_refused(record, monkeypatch):
    t = record().trajectory
    monkeypatch.setattr(trajectory, "WHOLE_LIMIT", 10_000)
    with pytest.raises(InputError, match=r"of 40 rows takes 0 MB, .* choose a window, or do without by update_pca"):
        t.gram()
    monkeypatch.setattr(trajectory, "EXACT_ROWS", 0)
    assert t.gram(window=(3, 30)).shape == (27, 27)


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


def test_inner_products_in_a_window_a_layer_and_less_their_mean(record, streamed, reads):
    seen = record()
    t, u = seen.trajectory, seen.hand.updates.double()
    e = torch.randn(3, t.space.size, generator=torch.Generator().manual_seed(1)).double()
    c = torch.randn(2, len(t), generator=torch.Generator().manual_seed(2), dtype=F64)
    span = t.space.layer("2").span
    rows, moved = u[5:23], u[5:23] - u[5:23].mean(dim=0)
    torch.testing.assert_close(t.inner(e, (5, 23)), rows @ e.T)
    torch.testing.assert_close(t.inner(e, (5, 23), center=True), moved @ e.T)
    sum_before = sum(reads)
    torch.testing.assert_close(t.inner(e, (5, 23), "2", center=True), moved[:, span] @ e[:, span].T)
    assert sum(reads) - sum_before == 18 * (span.stop - span.start)
    for held in (None, "2"):
        base = torch.zeros_like(u)
        base[:, span if held else slice(None)] = u[:, span if held else slice(None)]
        mine = TrajectoryRows(t, c, held)
        torch.testing.assert_close(t.inner(mine, (5, 23), center=True), moved @ (c @ base).T)
        torch.testing.assert_close(t.inner(mine, layer="2"), u[:, span] @ (c @ base)[:, span].T)
    assert not t.inner(TrajectoryRows(t, c, "0"), layer="2").any()
    assert t.inner(e, (40, 50)).shape == (0, 3)
    with pytest.raises(InputError, match="no layer is called '7'"):
        t.inner(TrajectoryRows(t, c), layer="7")
    with pytest.raises(InputError, match="no layer is called '7'"):
        t.inner(e, layer="7")


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
    monkeypatch.setattr(Segment, "updates", None)
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


# -- rows that are not finite ------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
    """A run of 20 steps whose weights are not finite from step 8 to step 10: the updates of steps 8 to 11."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = []

    def before(*_):
        step = len(kept)
        kept.append(model[2].bias.detach().clone())
        if step in (8, 9, 10):
            model[2].bias.grad[0] = torch.nan
        elif step == 11:
            with torch.no_grad():  # the step itself, on weights put back
                model[2].bias.copy_(kept[8])

    optimizer.register_step_pre_hook(before)
    with watch(model, optimizer, tmp_path / "run", segment_rows=7):
        for _ in range(20):
            x = torch.randn(9, 5, generator=torch.Generator().manual_seed(len(kept)))
            optimizer.zero_grad()
            model(x)[:, 1].square().mean().backward()
            if len(kept) == 11:
                optimizer.zero_grad()
                model[0].weight.grad = torch.ones_like(model[0].weight)
            optimizer.step()
    return open_run(tmp_path / "run").trajectory


def test_which_rows_are_not_finite(broken):
    assert (~broken.finite).nonzero()[:, 0].tolist() == [8, 9, 10, 11]
    assert broken.rows_left_out == 4
    given = broken.updates(0, 20)
    assert (~torch.isfinite(given).all(dim=1)).nonzero()[:, 0].tolist() == [8, 9, 10, 11]
    assert not torch.isfinite(broken.weights(9)).all()
    assert torch.isfinite(broken.weights(15)).all()


def test_rows_that_are_not_finite_take_no_part(broken, streamed):
    t = broken
    u = t.updates(0, 20).double()
    u[8:12] = 0.0
    with pytest.warns(RuntimeWarning, match="4 of 20 updates are not finite and are left out, the first after step 8"):
        found = t.gram()
    torch.testing.assert_close(found, u @ u.T)  # and no second warning, which would be an error
    part = u[:, t.space.layer("2").span]
    torch.testing.assert_close(t.gram("2"), part @ part.T)
    rows = u[[5, 6, 7, 12, 13]]
    moved = rows - rows.mean(dim=0)
    there = torch.tensor([0, 1, 2, 7, 8])
    torch.testing.assert_close(t.gram(window=(5, 14), center=True)[there][:, there], moved @ moved.T)
    e = torch.randn(3, t.space.size, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(t.inner(e), u @ e.T)
    centered = t.inner(e, (5, 14), center=True)
    torch.testing.assert_close(centered[there], moved @ e.T)
    assert not centered[3:7].any()
    c = torch.randn(2, 20, generator=torch.Generator().manual_seed(2), dtype=F64)
    mine = TrajectoryRows(t, c)
    torch.testing.assert_close(mine.combine(torch.eye(2)), (c @ u).float())
    torch.testing.assert_close(mine.cross(mine), (c @ u) @ (c @ u).T)
    torch.testing.assert_close(t.inner(mine), u @ (c @ u).T)
