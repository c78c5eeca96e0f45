"""PCA by algebra on the Gram matrix, against dense singular value decompositions and against recorded gradients."""

import numpy as np
import pytest
import torch

from tests.recording.conftest import net, record, train  # noqa: F401 - a fixture
from tests.recording.test_trajectory import broken, every_step_is_a_row, small_tiles  # noqa: F401 - fixtures
from tests.solvers.test_gradients import dense_map
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.recording import open_run, trajectory, watch
from thalweg.recording.store import Segment
from thalweg.solvers.gram import gradient_pca, principal_components, update_pca, weight_path, weight_pca


def dense_pca(points, k, center=True):
    points = np.asarray(points, dtype=np.float64)
    if center:
        points = points - points.mean(axis=0)
    _, values, vectors = np.linalg.svd(points, full_matrices=False)
    variance = values**2
    return vectors[:k], variance[:k] / (len(points) - center), variance[:k] / variance.sum()


def assert_same_components(found, expected, tolerance=1e-6):
    vectors, values, explained = expected
    dense = found.vectors.double().numpy()
    cosines = np.abs(dense @ vectors.T)
    captured = (cosines**2).sum() / len(vectors)
    assert captured > 1 - tolerance
    np.testing.assert_allclose(np.diag(cosines), 1.0, atol=tolerance)
    np.testing.assert_allclose(found.values.numpy(), values, rtol=1e-8)
    np.testing.assert_allclose(found.explained.numpy(), explained, rtol=1e-8)


WINDOWS = [None, (0, 12), (13, 40), (21, 33)]


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("window", WINDOWS)
def test_pca_of_updates_and_weights_against_a_dense_svd(record, window, center):  # noqa: F811
    seen = record(dtype=torch.float64)
    start, stop = window or (0, 40)
    weights = torch.stack(seen.hand.weights)
    updates = weights.diff(dim=0)[start:stop]
    found = update_pca(seen.trajectory, 5, window, center=center)
    assert_same_components(found, dense_pca(updates, 5, center))
    points = weights[start : stop + 1]
    expected = dense_pca(points if center else points - points[0], 5, center)
    assert_same_components(weight_pca(seen.trajectory, 5, window, center=center), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_captured_fraction_of_the_dense_subspace(record, dtype):  # noqa: F811
    seen = record(dtype=dtype)
    updates = torch.stack(seen.hand.weights).double().diff(dim=0)
    vectors, _, _ = dense_pca(updates, 5)
    found = update_pca(seen.trajectory, 5).vectors.double().numpy()
    assert ((found @ vectors.T) ** 2).sum() / 5 > 0.999999
    np.testing.assert_allclose(found @ found.T, np.eye(5), atol=1e-5 if dtype == torch.float32 else 1e-9)


def test_pca_of_one_layer(record):  # noqa: F811
    seen = record(dtype=torch.float64)
    span = seen.trajectory.space.layer("2").span
    for pca, points in ((update_pca, seen.hand.updates), (weight_pca, torch.stack(seen.hand.weights))):
        found = pca(seen.trajectory, 4, layer="2")
        vectors, values, explained = dense_pca(points[:, span], 4)
        outside = np.delete(found.vectors.numpy(), np.arange(span.start, span.stop), axis=1)
        assert not outside.any()
        assert_same_components(found, (np.pad(vectors, ((0, 0), (span.start, 0))), values, explained))


def test_every_layers_components_with_several_steps_a_row(record):  # noqa: F811
    seen = record(dtype=torch.float64, every=3)
    weights = torch.stack(seen.hand.weights)[[0, *range(3, 40, 3), 40]]
    assert_same_components(update_pca(seen.trajectory, 3), dense_pca(weights.diff(dim=0), 3))
    assert_same_components(weight_pca(seen.trajectory, 3), dense_pca(weights, 3))


def test_directions_say_where_they_came_from(record):  # noqa: F811
    found = weight_pca(record().trajectory, 3, (5, 30), layer="0")
    assert found.label == "PCA of weights in 0"
    assert found.provenance == {
        "method": "pca",
        "kind": "weights",
        "window": [5, 30],
        "layer": "0",
        "centered": True,
        "rows": 25,
        "rows_left_out": 0,
        "every": 1,
        "algorithm": "exact",
    }
    randomized = weight_pca(record(folder="other").trajectory, 3, method="randomized", seed=4, passes=2).provenance
    assert {key: randomized[key] for key in ("algorithm", "seed", "passes", "tol", "window")} == {
        "algorithm": "randomized",
        "seed": 4,
        "passes": 2,
        "tol": 1e-4,
        "window": [0, 40],
    }


def test_the_path_in_the_plane_of_two_components(record):  # noqa: F811
    seen = record(dtype=torch.float64)
    for window in (None, (10, 25)):
        start, stop = window or (0, 40)
        found = weight_pca(seen.trajectory, 2, window)
        points = torch.stack(seen.hand.weights)[start : stop + 1]
        expected = (points - points[0]) @ found.vectors.T
        torch.testing.assert_close(weight_path(seen.trajectory, found, window), expected, rtol=1e-9, atol=1e-12)


# -- gradients ---------------------------------------------------------------------------------------------

SETTINGS = {
    "sgd": {},
    "decay": {"weight_decay": 0.01},
    "momentum": {"momentum": 0.9},
    "dampened": {"momentum": 0.8, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "maximize": {"momentum": 0.5, "maximize": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_are_rebuilt_from_updates(record, name):  # noqa: F811
    settings = SETTINGS[name]
    seen = record(
        lambda p: torch.optim.SGD(p, lr=0.05, **settings),
        dtype=torch.float64,
        schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 60),
    )
    decay = settings.get("weight_decay", 0.0) * (-1 if settings.get("maximize") else 1)
    real = torch.stack(seen.hand.gradients) + decay * torch.stack(seen.hand.weights[:-1])
    t = seen.trajectory
    for window in (None, (17, 40), (5, 6)):
        rows = t.rows_in(window)
        rebuilt = dense_map(t, rows) @ t.updates(0, 40)
        torch.testing.assert_close(rebuilt, real[rows], rtol=1e-7, atol=1e-10)
    assert_same_components(gradient_pca(t, 5, (3, 40)), dense_pca(real[3:], 5))
    found = gradient_pca(t, 5, (3, 40), method="randomized", tol=1e-12)
    assert_same_components(found, dense_pca(real[3:], 5))
    assert found.provenance["algorithm"] == "randomized"


def test_a_changing_momentum_is_followed(record):  # noqa: F811
    seen = record(
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        dtype=torch.float64,
        schedule=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=50),
    )
    t = seen.trajectory
    assert len(t.momenta.unique()) > 10
    rebuilt = dense_map(t, torch.arange(40)) @ t.updates(0, 40)
    torch.testing.assert_close(rebuilt, torch.stack(seen.hand.gradients), rtol=1e-7, atol=1e-10)


def test_gradients_that_do_not_follow_from_updates_are_refused(record, tmp_path):  # noqa: F811
    adam = record(lambda p: torch.optim.Adam(p, lr=0.01), folder="adam").trajectory
    with pytest.raises(InputError, match=r"only, and this run used torch\.optim\.adam\.Adam"):
        gradient_pca(adam, 3)
    with pytest.raises(InputError, match="sums 2 steps in a row"):
        gradient_pca(record(every=2, folder="every").trajectory, 3)
    groups = record(
        lambda p: torch.optim.SGD([{"params": p[:2]}, {"params": p[2:], "lr": 0.01}], lr=0.1), folder="groups"
    ).trajectory
    with pytest.raises(InputError, match="groups differ"):
        gradient_pca(groups, 3)
    still = record(
        lambda p: torch.optim.SGD(p, lr=0.1),
        schedule=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda s: float(s != 4)),
        folder="still",
    ).trajectory
    with pytest.raises(InputError, match="step 4 had learning rate 0"):
        gradient_pca(still, 3)
    assert len(gradient_pca(still, 3, (5, 40))) == 3
    sums = record(folder="sums").trajectory
    vars(sums)["starts"] = sums.starts - (torch.arange(40) == 7).long()
    with pytest.raises(InputError, match="the row of step 7 sums several steps"):
        gradient_pca(sums, 3)
    assert len(gradient_pca(sums, 3, (10, 40))) == 3


@pytest.mark.parametrize("nesterov", [False, True])
def test_an_optimizer_that_had_made_steps_before(tmp_path, nesterov):
    model = net(torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=nesterov)
    train(model, optimizer, 3)
    with watch(model, optimizer, tmp_path / "run"):
        hand = train(model, optimizer, 20)
    t = open_run(tmp_path / "run").trajectory
    with pytest.raises(InputError, match="first momentum is unknown"):
        gradient_pca(t, 3)
    if nesterov:
        with pytest.raises(InputError, match="first momentum is unknown"):
            gradient_pca(t, 3, (5, 20))
    else:
        rebuilt = dense_map(t, torch.arange(1, 20)) @ t.updates(0, 20)
        torch.testing.assert_close(rebuilt, torch.stack(hand.gradients)[1:], rtol=1e-7, atol=1e-10)


# -- what is missing or degenerate -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*left out.*:RuntimeWarning")
def test_a_gap_is_named(record):  # noqa: F811
    seen = record(dtype=torch.float64)
    sorted((seen.folder / "segments").iterdir())[2].unlink()
    t = open_run(seen.folder).trajectory
    assert t.gaps == ((14, 21),)
    with pytest.raises(InputError, match=r"steps 14 to 20 are missing, and weights .* ends at 14 or begins at 21"):
        weight_pca(t, 3)
    with pytest.raises(InputError, match="steps 14 to 20 are missing"):
        weight_path(t, update_pca(t, 2))
    with pytest.raises(InputError, match="ends at 14 or begins at 22"):
        gradient_pca(t, 3, (21, 40))
    weights = torch.stack(seen.hand.weights)
    assert_same_components(weight_pca(t, 3, (21, 40)), dense_pca(weights[21:], 3))
    assert_same_components(gradient_pca(t, 3, (22, 40)), dense_pca(torch.stack(seen.hand.gradients)[22:], 3))
    updates = torch.cat([weights.diff(dim=0)[:14], weights.diff(dim=0)[21:]])
    assert_same_components(update_pca(t, 3), dense_pca(updates, 3))


def test_short_and_wrong_windows(record):  # noqa: F811
    t = record().trajectory
    with pytest.raises(InputError, match=r"window=\(3, 8\) holds 5 rows, k=5 needs 6; recorded are steps 0 to 39"):
        update_pca(t, 5, (3, 8))
    for window in ((8, 3), (-1, 5), (3,), "late", 7):
        with pytest.raises(InputError, match="window="):
            update_pca(t, 2, window)
    with pytest.raises(InputError, match="no layer is called 'head'"):
        update_pca(t, 2, layer="head")


LEFT_OUT = pytest.mark.filterwarnings("ignore:.*are not finite and are left out.*:RuntimeWarning")


@LEFT_OUT
@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_rows_that_are_not_finite_are_left_out(broken, method):  # noqa: F811
    """Not finite are the updates of steps 8 to 11, and the weights of steps 8 to 10; after that they are, again."""
    t = broken
    u = t.updates(0, 20).double()
    found = update_pca(t, 3, method=method, tol=1e-12)
    assert_same_components(found, dense_pca(torch.cat([u[:8], u[12:]]), 3), 1e-5)
    assert (found.provenance["rows"], found.provenance["rows_left_out"]) == (16, 4)
    assert update_pca(t, 3, (0, 8), method=method).provenance["rows_left_out"] == 0
    assert update_pca(t, 3, (10, 18), method=method).provenance["rows_left_out"] == 2
    points = torch.cat([torch.zeros(1, 66).double(), u[:8].cumsum(dim=0)])
    found = weight_pca(t, 3, method=method, tol=1e-12)
    assert_same_components(found, dense_pca(points, 3), 1e-5)
    assert (found.provenance["rows"], found.provenance["rows_left_out"]) == (
        8,
        12,
    )  # where they went from there is lost
    path = weight_path(t, found)
    torch.testing.assert_close(path, points @ found.vectors.double().T, rtol=1e-5, atol=1e-6)
    with pytest.raises(
        InputError, match=r"window=\(6, 14\) holds 4 rows that can be used, k=4 needs 5; 4 more are left"
    ):
        update_pca(t, 4, (6, 14), method=method)
    with pytest.raises(InputError, match=r"holds 0 rows that can be used, k=2 needs 3; 5 more are left out"):
        weight_pca(t, 2, (8, 13), method=method)


@LEFT_OUT
def test_gradients_that_follow_from_updates_that_are_not_finite(tmp_path):
    model = net(torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    bias, kept = model[2].bias, []

    def before(*_):
        kept.append(bias.detach().clone())
        if len(kept) == 9:
            bias.grad[0] = torch.nan
        if len(kept) == 10:  # put back what was broken
            bias.data.copy_(kept[8])
            optimizer.state[bias]["momentum_buffer"].zero_()
            for p in model.parameters():
                p.grad.nan_to_num_(0.0)

    optimizer.register_step_pre_hook(before)
    with watch(model, optimizer, tmp_path / "run"):
        hand = train(model, optimizer, 20)
    t = open_run(tmp_path / "run").trajectory
    assert (~t.finite).nonzero()[:, 0].tolist() == [8, 9]
    found = gradient_pca(t, 3)
    assert (found.provenance["rows"], found.provenance["rows_left_out"]) == (
        17,
        3,
    )  # step 10 needs the update of step 9
    gradients = torch.stack(hand.gradients)[[*range(8), *range(11, 20)]]
    assert_same_components(found, dense_pca(gradients, 3), 1e-5)


# -- the randomised way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("window", [(0, 12), (13, 40)])
def test_windows_of_a_long_run(record, monkeypatch, window, center):  # noqa: F811
    monkeypatch.setattr(trajectory, "EXACT_ROWS", 30)
    seen = record(dtype=torch.float64)
    weights = torch.stack(seen.hand.weights)[window[0] : window[1] + 1]
    found = update_pca(seen.trajectory, 4, window, center=center)
    assert found.provenance["algorithm"] == "exact"
    assert_same_components(found, dense_pca(weights.diff(dim=0), 4, center))
    expected = dense_pca(weights if center else weights - weights[0], 4, center)
    assert_same_components(weight_pca(seen.trajectory, 4, window, center=center), expected)
    gradients = torch.stack(seen.hand.gradients)[slice(*window)]
    assert_same_components(gradient_pca(seen.trajectory, 4, window, center=center), dense_pca(gradients, 4, center))


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("layer", [None, "2"])
def test_the_randomised_way_finds_the_same(record, monkeypatch, window, layer, center):  # noqa: F811
    small_tiles(monkeypatch)
    monkeypatch.setattr(trajectory.Trajectory, "gram", None)
    seen = record(dtype=torch.float64)
    start, stop = window or (0, 40)
    span = seen.trajectory.space.layer("2").span if layer else slice(0, 66)
    weights = torch.stack(seen.hand.weights)[start : stop + 1]
    families = ((update_pca, weights.diff(dim=0)), (weight_pca, weights if center else weights - weights[0]))
    for pca, points in families:
        points = points.clone()
        points[:, : span.start], points[:, span.stop :] = 0, 0
        found = pca(seen.trajectory, 4, window, layer, center, method="randomized", tol=1e-10)
        assert_same_components(found, dense_pca(points, 4, center))
        assert bool(found.converged.all())


def test_residuals_are_what_they_say(record):  # noqa: F811
    seen = record(dtype=torch.float64)
    gram = seen.hand.updates @ seen.hand.updates.T
    exact = update_pca(seen.trajectory, 3, center=False, method="exact")
    assert float(exact.residuals.max()) < 1e-13 * float(exact.values[0])
    assert bool(exact.converged.all())
    for passes in (1, 2):
        found = update_pca(seen.trajectory, 3, center=False, method="randomized", passes=passes)
        values = found.values * 40
        units = (found.rows.coefficients * values.sqrt()[:, None]).T
        true = torch.linalg.vector_norm(gram @ units - units * values, dim=0) / 40
        torch.testing.assert_close(found.residuals, true, rtol=1e-6, atol=1e-14)
        nearest = (found.values[:, None] - torch.linalg.eigvalsh(gram) / 40).abs().amin(dim=1)
        assert bool((nearest <= found.residuals + 1e-14).all())
        assert torch.equal(found.converged, found.residuals <= 1e-4 * found.values[0])
    once = update_pca(seen.trajectory, 3, center=False, method="randomized", passes=1)
    assert float(once.residuals.max()) > 1e-3 * float(once.values[0])
    assert not bool(once.converged.all())


def test_auto_takes_the_cheaper_way(record, monkeypatch):  # noqa: F811
    t = record().trajectory
    assert update_pca(t, 3).provenance["algorithm"] == "exact"
    monkeypatch.setattr(trajectory, "EXACT_ROWS", 39)
    other = open_run(t.folder).trajectory
    assert update_pca(other, 3).provenance["algorithm"] == "randomized"
    assert update_pca(other, 3, method="exact").provenance["algorithm"] == "exact"
    assert update_pca(other, 3).provenance["algorithm"] == "exact"  # the Gram matrix is there now
    third = open_run(t.folder).trajectory
    assert update_pca(third, 3, (0, 30)).provenance["algorithm"] == "exact"  # of the window's rows alone
    with pytest.raises(InputError, match="method='best'"):
        update_pca(other, 3, method="best")


def test_the_same_seed_gives_the_same(record):  # noqa: F811
    t = record().trajectory
    found = [update_pca(t, 3, method="randomized", passes=2, seed=seed).values for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_everything_that_components_are_asked_without_a_gram_matrix(record, monkeypatch):  # noqa: F811
    seen = record(dtype=torch.float64)
    monkeypatch.setattr(trajectory, "EXACT_ROWS", 10)
    monkeypatch.setattr(trajectory, "WHOLE_LIMIT", 1000)
    t = seen.trajectory
    found = update_pca(t, 3)
    dense = Directions(found.vectors, space=t.space)
    torch.testing.assert_close(found.rows.grams(), dense.rows.grams())
    torch.testing.assert_close(found.layer_energy(), dense.layer_energy())
    torch.testing.assert_close(found.rows.cross(found.rows), torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(t.inner(found), seen.hand.updates @ dense.vectors.T)
    torch.testing.assert_close(weight_path(t, found)[1:], (seen.hand.updates @ dense.vectors.T).cumsum(dim=0))
    with pytest.raises(InputError, match="method='randomized'"):
        update_pca(t, 3, method="exact")


def test_a_pass_reads_the_file_once(record, monkeypatch):  # noqa: F811
    t = record().trajectory
    read = []
    updates = Segment.updates
    monkeypatch.setattr(Segment, "updates", lambda *a: read.append(updates(*a)) or read[-1])
    found = update_pca(t, 3, method="randomized", passes=2, tol=1e-15)
    assert found.provenance["passes"] == 2
    assert sum(part.numel() for part in read) == 2 * 40 * 66


def test_rank_deficient_vectors():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(12, 3, generator=generator, dtype=torch.float64) @ torch.randn(
        3, 50, generator=generator, dtype=torch.float64
    )
    gram = vectors @ vectors.T
    found = principal_components(gram, 3)
    torch.testing.assert_close(found.coefficients @ gram @ found.coefficients.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(found.values.sqrt(), torch.linalg.svdvals(vectors)[:3])
    assert float(found.explained.sum()) == pytest.approx(1.0)
    with pytest.raises(InputError, match="k=4 components were asked for, but these 12 vectors span 3 dimensions"):
        principal_components(gram, 4)
    with pytest.raises(InputError, match="span 0 dimensions"):
        principal_components(torch.zeros(4, 4), 1)
    with pytest.raises(InputError, match="k=13 components"):
        principal_components(gram, 13)
    with pytest.raises(InputError, match="not finite"):
        principal_components(gram * torch.nan, 1)


def test_signs_make_the_largest_coefficient_positive():
    gram = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    assert torch.equal(principal_components(gram, 3).coefficients > 0, torch.eye(3, dtype=torch.bool))
