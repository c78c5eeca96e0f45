"""Gradients out of the updates of a run that was resumed with an optimizer that had made no step."""

import pytest
import torch

from tests.recording.conftest import net, train, trainable
from thalweg.errors import InputError
from thalweg.recording import open_run, watch
from thalweg.solvers.gradients import gradient_map


def dense_map(t, rows):
    """D as a dense matrix."""
    return torch.from_numpy(gradient_map(t, rows).toarray())


def optimizer_of(model, nesterov):
    settings = {"dampening": 0.0, "nesterov": True} if nesterov else {"dampening": 0.3}
    return torch.optim.SGD(trainable(model), lr=0.1, momentum=0.9, **settings)


@pytest.fixture(params=[False, True], ids=["heavy ball", "nesterov"])
def parts(request, tmp_path):
    """The gradients of two recordings of one model into one folder, and whether the second kept its optimizer."""

    def make(same_optimizer, move=0.0):
        model = net(torch.float64)
        optimizer = optimizer_of(model, request.param)
        with watch(model, optimizer, tmp_path / "run"):
            one = train(model, optimizer, 12)
        if not same_optimizer:
            optimizer = optimizer_of(model, request.param)
        with torch.no_grad():
            model[0].bias += move
        with watch(model, optimizer, tmp_path / "run", resume=True):
            two = train(model, optimizer, 8)
        return open_run(tmp_path / "run").trajectory, torch.stack(one.gradients), torch.stack(two.gradients)

    return make


@pytest.mark.parametrize("same_optimizer", [True, False], ids=["kept", "new"])
def test_gradients_of_all_rows(parts, same_optimizer):
    t, one, two = parts(same_optimizer)
    rows = torch.arange(20)
    found = dense_map(t, rows) @ t.updates(0, 20)
    assert torch.allclose(found, torch.cat([one, two]), rtol=0, atol=1e-12)
    some = dense_map(t, rows[14:]) @ t.updates(0, 20)
    assert torch.allclose(some, two[2:], rtol=0, atol=1e-12)


def test_after_a_gap_a_new_optimizer_needs_no_row_before(parts):
    t, _, two = parts(False, move=0.5)
    assert t.gaps == ((12, 13),)
    found = dense_map(t, torch.arange(12, 20)) @ t.updates(0, 21)
    assert torch.allclose(found, two, rtol=0, atol=1e-12)


def test_after_a_gap_an_old_optimizer_does(parts):
    t, _, _ = parts(True, move=0.5)
    with pytest.raises(InputError, match=r"missing|momentum"):
        gradient_map(t, torch.arange(12, 20))
