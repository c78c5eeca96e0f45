"""PCA by algebra on the Gram matrix, against dense singular value decompositions and against recorded gradients."""

import numpy as np
import pytest
import torch

from tests.recording.conftest import net, record, train  # noqa: F401 - a fixture
from thalweg.errors import InputError
from thalweg.recording import open_run, watch
from thalweg.solvers.gram import (
    gradient_map,
    gradient_pca,
    principal_components,
    update_pca,
    weight_path,
    weight_pca,
)


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
        "every": 1,
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
        rebuilt = gradient_map(t, rows) @ t.updates(0, 40)
        torch.testing.assert_close(rebuilt, real[rows], rtol=1e-7, atol=1e-10)
    assert_same_components(gradient_pca(t, 5, (3, 40)), dense_pca(real[3:], 5))


def test_a_changing_momentum_is_followed(record):  # noqa: F811
    seen = record(
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        dtype=torch.float64,
        schedule=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=50),
    )
    t = seen.trajectory
    assert len(t.momenta.unique()) > 10
    rebuilt = gradient_map(t, torch.arange(40)) @ t.updates(0, 40)
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
        rebuilt = gradient_map(t, torch.arange(1, 20)) @ t.updates(0, 20)
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


def test_updates_that_are_not_finite_are_named(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def after(step, loss):
        if step == 14:
            model[2].bias.data[0] = torch.inf

    with watch(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 20, after)
    t = open_run(tmp_path / "run").trajectory
    with pytest.raises(InputError, match=r"step 15 is not finite \(5 of 20 are not\)"):
        update_pca(t, 2)
    assert len(update_pca(t, 2, (0, 15))) == 2


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
