"""Held-out spectra, relative sharpness and robustness against dense Hessians and by-hand noise."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from tests.conftest import classification_batches, classify, dense_truth, pooled, random_vector
from thalweg.analysis.held_out import held_out_spectrum
from thalweg.analysis.noise import exchanged, input_noise, label_noise, robustness
from thalweg.analysis.sharpness import relative_sharpness, scales
from thalweg.errors import InputError
from thalweg.problem import Problem

TRAIN, OTHER = classification_batches((20, 12), 4, 3), classification_batches((16, 9), 4, 3, seed=5)


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def truth(model, batches):  # type: ignore[no-untyped-def]
    inputs, labels = pooled(batches)
    return dense_truth(model, lambda call: cross_entropy(call(inputs), labels))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- held-out data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True])
def test_both_spectra_and_their_overlap(known: bool) -> None:
    model = net()
    problem, other = Problem(model, classify, TRAIN), Problem(net(), classify, OTHER)
    here, there = truth(model, TRAIN).hessian, truth(model, OTHER).hessian
    train = held_out_spectrum(problem, problem, 3, tol=1e-10).train if known else None
    found = held_out_spectrum(problem, other, 3, train=train, tol=1e-10)
    mine, theirs = (torch.linalg.eigh(matrix)[1][:, -3:].flip(1) for matrix in (here, there))
    assert found.pairs.values.tolist() == pytest.approx(torch.linalg.eigvalsh(there).flip(0)[:3].tolist(), rel=1e-8)
    assert found.across.tolist() == pytest.approx(torch.diagonal(mine.T @ there @ mine).tolist(), rel=1e-6)
    assert found.subspace.mean == pytest.approx(float((mine.T @ theirs).square().sum() / 3), rel=1e-6)
    assert bool((found.across <= found.pairs.values[0] + 1e-9).all())
    assert found.matvecs >= 3 + 3


def test_the_held_out_problem_stands_at_the_training_weights() -> None:
    model = net()
    moved = Problem(model, classify, TRAIN).at(random_vector(51, 2))
    found = held_out_spectrum(moved, Problem(model, classify, OTHER), 2, tol=1e-10)
    true = truth(moved.model, OTHER).eigenvalues[:2]
    assert found.pairs.values.tolist() == pytest.approx(true.tolist(), rel=1e-8)


def test_another_model_and_no_pairs_are_refused() -> None:
    problem = Problem(net(), classify, TRAIN)
    with pytest.raises(InputError, match="held-out problem"):
        held_out_spectrum(problem, Problem(nn.Linear(4, 3).double(), classify, OTHER))
    with pytest.raises(InputError, match="k=0"):
        held_out_spectrum(problem, problem, 0)


# -- sharpness ---------------------------------------------------------------------------------------------


def by_hand(model: nn.Module, scale: str) -> torch.Tensor:
    parts = []
    for p in model.parameters():
        for row in p.detach().reshape(len(p), -1):
            own = (
                row.abs() if scale == "entry" or p.ndim == 1 else torch.full_like(row, float(row.square().sum()) ** 0.5)
            )
            parts.append(own)
    return torch.cat(parts)


@pytest.mark.parametrize("scale", ["filter", "entry"])
def test_relative_sharpness_is_the_top_of_the_scaled_hessian(scale) -> None:  # type: ignore[no-untyped-def]
    model = net()
    weights = by_hand(model, scale)
    problem = Problem(model, classify, TRAIN)
    assert torch.allclose(scales(problem, scale), weights, rtol=1e-12)
    true = float(torch.linalg.eigvalsh(weights[:, None] * truth(model, TRAIN).hessian * weights)[-1])
    found = relative_sharpness(problem, scale, tol=1e-10)
    assert found.value == pytest.approx(true, rel=1e-8)
    assert found.converged
    assert found.matvecs > 0


def test_filters_of_a_convolution_are_its_kernels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.Flatten(), nn.Linear(12, 2, bias=False)).double()
    batch = [(random_vector(2 * 2 * 16, 0).view(2, 2, 4, 4), torch.tensor([0, 1]))]
    found = scales(Problem(model, classify, batch), "filter")
    kernels = model[0].weight.detach().flatten(1).norm(dim=1)
    assert torch.allclose(found[:54].view(3, 18), kernels[:, None].expand(3, 18))


def rescale(model: nn.Module, factors: torch.Tensor) -> None:
    """Units of the hidden layer made larger, what reads them made smaller: the same function."""
    with torch.no_grad():
        model[0].weight.mul_(factors[:, None])
        model[0].bias.mul_(factors)
        model[2].weight.div_(factors)


def test_what_changes_and_what_does_not_when_weights_are_rescaled() -> None:
    model, layer, units = net(), net(), net()
    rescale(layer, torch.full((6,), 8.0, dtype=torch.float64))
    rescale(units, torch.tensor([8.0, 0.5, 3.0, 1.0, 0.2, 5.0], dtype=torch.float64))
    inputs, _ = pooled(TRAIN)
    assert torch.allclose(model(inputs), units(inputs))
    assert torch.allclose(model(inputs), layer(inputs))

    def sharp(net: nn.Module, scale) -> float:  # type: ignore[no-untyped-def]
        return relative_sharpness(Problem(net, classify, TRAIN), scale, tol=1e-10).value

    raw = [float(truth(one, TRAIN).eigenvalues[0]) for one in (model, layer, units)]
    assert max(raw[1:]) > 3 * raw[0]
    assert sharp(layer, "filter") == pytest.approx(sharp(model, "filter"), rel=1e-7)
    assert sharp(units, "filter") != pytest.approx(sharp(model, "filter"), rel=1e-2)
    assert sharp(layer, "entry") == pytest.approx(sharp(model, "entry"), rel=1e-7)
    assert sharp(units, "entry") == pytest.approx(sharp(model, "entry"), rel=1e-7)


def test_an_unknown_scale_and_a_net_of_zeros_are_refused() -> None:
    problem = Problem(net(), classify, TRAIN)
    with pytest.raises(InputError, match="'layer' is unknown"):
        relative_sharpness(problem, "layer")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="every weight is zero"):
        relative_sharpness(problem.at(torch.zeros(51)))


# -- noise -------------------------------------------------------------------------------------------------


def test_losses_and_curvature_under_noise_of_ones_own() -> None:
    """A noise that is known exactly: inputs multiplied, so that loss and Hessian can be had densely."""
    model = net()
    problem, other = Problem(model, classify, TRAIN), Problem(model, classify, OTHER)
    seen = []

    def louder(batch, level, draw):  # type: ignore[no-untyped-def]
        seen.append(float(torch.rand((), generator=draw)))
        return batch[0] * (1 + level), batch[1]

    table = robustness(problem, other, noises={"louder": louder}, levels=[0.5], draws=2, tol=1e-9)
    assert table["noise"] == ["none", "louder"]
    for row, factor in zip(table, (1.0, 1.5), strict=True):
        for name, batches in (("train", TRAIN), ("held_out", OTHER)):
            true = truth(model, [(x * factor, y) for x, y in batches])
            assert row[name] == pytest.approx(true.loss, rel=1e-10)
        assert row["largest"] == pytest.approx(float(true.eigenvalues[0]), rel=1e-7)
    assert table["train_error"][0] is None
    assert table["train_error"][1] == pytest.approx(0.0, abs=1e-12)
    assert len(set(seen)) == 2 * 2  # two batches, each drawn alike whenever it is read; two draws


def test_without_held_out_data_training_data_are_told() -> None:
    model = net()
    table = robustness(Problem(model, classify, TRAIN), levels=[0.2], draws=3, tol=1e-9, seed=4)
    assert table["held_out"] == [None] * 3
    assert table["largest"][0] == pytest.approx(float(truth(model, TRAIN).eigenvalues[0]), rel=1e-7)
    assert table["train"][0] == pytest.approx(truth(model, TRAIN).loss, rel=1e-10)
    assert all(row["train_error"] > 0 for row in table if row["noise"] != "none")
    again = robustness(Problem(model, classify, TRAIN), levels=[0.2], draws=3, tol=1e-9, seed=4)
    assert again.rows == table.rows
    assert robustness(Problem(model, classify, TRAIN), levels=[0.2], draws=3, seed=5)["train"][1] != table["train"][1]


def test_wrong_labels_raise_the_loss_of_a_trained_net() -> None:
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        cross_entropy(model(pooled(TRAIN)[0]), pooled(TRAIN)[1]).backward()
        optimizer.step()
    table = robustness(Problem(model, classify, TRAIN), levels=[0.5], draws=5)
    rows = {row["noise"]: row for row in table}
    assert rows["labels"]["train"] > rows["none"]["train"] + 3 * rows["labels"]["train_error"]
    assert rows["inputs"]["train"] > rows["none"]["train"]


def test_input_noise_has_the_size_that_it_says() -> None:
    inputs = 5.0 * random_vector(4000, 1).view(1000, 4) + 3
    labels = torch.arange(1000)
    noisy, kept = input_noise((inputs, labels), 0.2, draws())
    assert kept is labels
    assert float((noisy - inputs).std() / inputs.std()) == pytest.approx(0.2, rel=0.05)
    assert float((noisy - inputs).mean()) == pytest.approx(0.0, abs=0.1)


def test_label_noise_exchanges_the_share_that_it_says_and_leaves_what_does_not_count() -> None:
    labels = torch.arange(1000)
    labels[::4] = -100
    inputs = random_vector(1000).view(1000, 1)
    same, noisy = label_noise((inputs, labels), 0.2, draws())
    assert same is inputs
    assert bool((noisy[::4] == -100).all())
    changed = int((noisy != labels).sum())
    assert 0.95 * 150 <= changed <= 150  # one in 750 is exchanged for itself
    assert set(noisy.tolist()) <= set(labels.tolist())


def test_targets_that_are_real_keep_their_rows() -> None:
    targets = random_vector(300, 0).view(100, 3)
    noisy = exchanged(targets, 0.3, draws())
    rows = {tuple(row) for row in targets.tolist()}
    assert all(tuple(row) in rows for row in noisy.tolist())
    assert 25 <= int((noisy != targets).any(dim=1).sum()) <= 30


Pair = namedtuple("Pair", "inputs target")


@pytest.mark.parametrize("form", ["tuple", "list", "named", "mapping"])
def test_every_form_of_a_batch_keeps_its_form(form: str) -> None:
    inputs, labels = random_vector(80).view(20, 4), torch.arange(20)
    batch = {
        "tuple": (inputs, labels), "list": [inputs, labels], "named": Pair(inputs, labels),
        "mapping": {"pixels": inputs, "labels": labels, "attention_mask": torch.ones(20, dtype=torch.long)},
    }[form]  # fmt: skip
    first, last = ("pixels", "labels") if form == "mapping" else (0, 1)
    for change, moved, still in ((input_noise, first, last), (label_noise, last, first)):
        noisy = change(batch, 0.5, draws())
        assert type(noisy) is type(batch)
        assert torch.equal(noisy[still], batch[still])
        assert not torch.equal(noisy[moved], batch[moved])
        if form == "mapping":
            assert bool((noisy["attention_mask"] == 1).all())


def test_tokens_are_exchanged_and_masks_are_not() -> None:
    tokens = torch.arange(200).view(10, 20)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens.clone()}
    noisy = input_noise(batch, 0.25, draws())
    assert 45 <= int((noisy["input_ids"] != tokens).sum()) <= 50
    assert torch.equal(noisy["labels"], tokens)
    assert bool((noisy["attention_mask"] == 1).all())
    noisy, kept = input_noise((tokens, tokens.clone()), 0.25, draws())
    assert torch.equal(kept, tokens)
    assert 45 <= int((noisy != tokens).sum()) <= 50


@pytest.mark.parametrize(
    ("batch", "change", "why"),
    [
        (torch.zeros(3, 2), label_noise, "a batch of type Tensor is its labels cannot be told"),
        ({"x": torch.zeros(3)}, label_noise, "labels cannot be told"),
        (({"x": torch.zeros(3)}, "name"), label_noise, "labels cannot be told"),
        (("name", torch.zeros(3)), input_noise, "no inputs"),
        ({"x": torch.zeros(3), "outcome": torch.zeros(3)}, input_noise, "labels cannot be told"),
        ({"mask": torch.ones(3, dtype=torch.long), "labels": torch.ones(3)}, input_noise, "no inputs"),
    ],
)
def test_what_cannot_be_told_is_said(batch, change, why) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=why):
        change(batch, 0.1, draws())


def test_bad_levels_and_draws_are_refused() -> None:
    problem = Problem(net(), classify, TRAIN)
    with pytest.raises(InputError, match="draws=0"):
        robustness(problem, draws=0)
    for level in (0.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="no positive number"):
            robustness(problem, levels=[level])
    with pytest.raises(InputError, match=r"2\.0 is no share of labels"):
        robustness(problem, levels=[2.0])
    louder = robustness(problem, levels=[2.0], noises={"inputs": input_noise})  # inputs may be as noisy as one likes
    assert louder["train"][1] > louder["train"][0]


def test_a_regression_with_a_loss_of_its_own() -> None:
    torch.manual_seed(1)
    model = nn.Linear(3, 1).double()
    inputs = random_vector(60, 3).view(20, 3)
    batches = [(inputs, inputs.sum(dim=1, keepdim=True))]
    table = robustness(Problem(model, lambda net, batch: mse_loss(net(batch[0]), batch[1]), batches), draws=2)
    none, *noisy = table["largest"]
    true = torch.linalg.eigvalsh(
        2 * torch.cat([inputs, torch.ones(20, 1)], 1).T @ torch.cat([inputs, torch.ones(20, 1)], 1) / 20
    )
    assert none == pytest.approx(float(true[-1]), rel=1e-2)
    labels = [value for row, value in zip(table, table["largest"], strict=True) if row["noise"] == "labels"]
    assert labels == pytest.approx([none] * 2, rel=1e-2)  # targets are not in the Hessian of a linear model
    assert max(noisy) > none
