"""Every way that people train: what is on disk against the weights that a plain loop notes after every step."""

import copy
import json
import math
import warnings

import pytest
import torch
from torch import nn

from tests.recording.conftest import flat, net, train, trainable
from thalweg.errors import InputError
from thalweg.recording import open_run, watch


class Noted:
    """Weights before the first and after each step, noted by hand."""

    def __init__(self, model, parameters=None):
        self.parameters = trainable(model) if parameters is None else parameters
        self.weights = [flat(self.parameters)]

    def note(self):
        self.weights.append(flat(self.parameters))

    @property
    def updates(self):
        return torch.stack([b - a for a, b in zip(self.weights, self.weights[1:], strict=False)])

    def check(self, folder):
        t = open_run(folder).trajectory
        steps = len(self.weights) - 1
        assert t.steps.tolist() == list(range(steps))
        assert t.gaps == ()
        assert torch.equal(t.updates(0, steps), self.updates)
        for step in range(-1, steps):
            assert torch.equal(t.weights(step), self.weights[step + 1])
        assert bool((self.updates != 0).any(dim=1).all())
        return t


def batches(count, seed=11):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(9, 5, generator=generator), torch.randint(3, (9,), generator=generator)) for _ in range(count)]


def lose(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def ended_with(folder):
    return json.loads((folder / "closed.json").read_text())


# -- optimizers --------------------------------------------------------------------------------------------

KINDS = ("Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop")


@pytest.mark.parametrize("kind", [*KINDS, "SGD"])
def test_every_optimizer(record, kind):
    seen = record(lambda p: getattr(torch.optim, kind)(p, lr=0.01), steps=9, segment_rows=4)
    assert torch.equal(seen.trajectory.updates(0, 9), seen.hand.updates)
    for step in range(-1, 9):
        assert torch.equal(seen.trajectory.weights(step), seen.hand.weights[step + 1])


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "Adagrad"])
@pytest.mark.parametrize("variant", ["foreach", "fused"])
def test_foreach_and_fused(record, kind, variant):
    seen = record(lambda p: getattr(torch.optim, kind)(p, lr=0.02, **{variant: True}), steps=9)
    assert torch.equal(seen.trajectory.updates(0, 9), seen.hand.updates)


def test_closures_that_are_called_many_times_make_one_row(tmp_path):
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn="strong_wolfe")
    noted, calls = Noted(model), []
    with watch(model, optimizer, tmp_path / "run", segment_rows=3):
        for batch in batches(7):

            def closure(batch=batch):
                optimizer.zero_grad()
                loss = lose(model, batch)
                loss.backward()
                calls.append(1)
                return loss

            optimizer.step(closure)
            noted.note()
    assert len(calls) > 14
    t = noted.check(tmp_path / "run")
    assert t.optimizer["class"] == "torch.optim.lbfgs.LBFGS"


def test_gradient_accumulation_makes_a_row_for_each_update(tmp_path):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    noted = Noted(model)
    with watch(model, optimizer, tmp_path / "run"):
        for number, batch in enumerate(batches(12)):
            (lose(model, batch) / 4).backward()
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
                noted.note()
    assert len(noted.check(tmp_path / "run")) == 3


# -- several optimizers ------------------------------------------------------------------------------------


def two_optimizers(model):
    return torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[2].parameters(), lr=0.01)


def test_several_optimizers_make_one_row_for_each_step_of_the_last(tmp_path):
    model = net()
    first, last = two_optimizers(model)
    noted = Noted(model)
    with watch(model, [first, last], tmp_path / "run", segment_rows=3):
        for number, batch in enumerate(batches(8)):
            model.zero_grad()
            lose(model, batch).backward()
            first.step()
            if number % 2:  # an optimizer that steps more often
                first.step()
            last.step()
            noted.note()
    t = noted.check(tmp_path / "run")
    assert t.learning_rates.tolist() == [[0.1, 0.01]] * 8
    assert t.optimizer["class"] == "torch.optim.sgd.SGD + torch.optim.adam.Adam"
    assert [group["optimizer"] for group in t.optimizer["groups"]] == [0, 1]
    assert bool((t.updates(0, 8)[:, :42] != 0).any(dim=1).all())


def test_what_the_others_did_after_the_last_step_is_a_row_of_its_own(tmp_path):
    model = net()
    first, last = two_optimizers(model)
    noted = Noted(model)
    recorder = watch(model, [first, last], tmp_path / "run")
    for _ in range(2):
        lose(model, batches(1)[0]).backward()
        first.step()
        last.step()
        noted.note()
    first.step()
    noted.note()
    recorder.close()
    t = noted.check(tmp_path / "run")
    assert not t.updates(2, 3)[:, 42:].any()


def test_the_beginning_is_before_the_first_step_of_any_optimizer(tmp_path):
    model = net()
    first, last = two_optimizers(model)
    with watch(model, [first, last], tmp_path / "run"):
        with torch.no_grad():
            model[0].weight.fill_(0.25)
        noted = Noted(model)
        lose(model, batches(1)[0]).backward()
        first.step()
        last.step()
        noted.note()
    noted.check(tmp_path / "run")


def test_each_of_several_optimizers_has_to_be_the_models(tmp_path):
    model = net()
    first, last = two_optimizers(model)
    with pytest.raises(InputError, match="this SGD holds none of the 4"):
        watch(model, [torch.optim.SGD(net().parameters(), lr=0.1), last], tmp_path / "run")
    with pytest.raises(InputError, match="give an optimizer, several, or None"):
        watch(model, [], tmp_path / "run")
    with pytest.raises(InputError, match=r"str is no torch\.optim\.Optimizer"):
        watch(model, [first, "adam"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- gradient scalers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bad", [(0, 1), (3,), (6,), ()])
def test_a_step_that_the_scaler_skipped_is_none(tmp_path, fused, bad):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    noted = Noted(model)
    with watch(model, optimizer, tmp_path / "run", segment_rows=3):
        for number, batch in enumerate(batches(7)):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = lose(model, batch)
            scaler.scale(loss).backward()
            if number in bad:
                model[0].weight.grad[0, 0] = math.inf
            scaler.step(optimizer)
            scaler.update()
            if number not in bad:
                noted.note()
    assert len(noted.check(tmp_path / "run")) == 7 - len(bad)
    assert ended_with(tmp_path / "run")["steps_seen"] == 7 - len(bad)


def test_with_a_scaler_one_of_two_optimizers_may_skip(tmp_path):
    model = net()
    first, last = (
        torch.optim.SGD(model[0].parameters(), lr=0.1, fused=True),
        torch.optim.SGD(model[2].parameters(), lr=0.1, fused=True),
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    noted = Noted(model)
    with watch(model, [first, last], tmp_path / "run"):
        for number, batch in enumerate(batches(5)):
            model.zero_grad()
            scaler.scale(lose(model, batch)).backward()
            if number == 2:
                model[2].weight.grad[0, 0] = math.nan
            scaler.step(first)
            scaler.step(last)
            scaler.update()
            if number != 2:  # what the first did alone lies in the next row
                noted.note()
    assert len(noted.check(tmp_path / "run")) == 4


# -- torch.compile -----------------------------------------------------------------------------------------


def test_a_compiled_model_and_a_compiled_step(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    compiled = torch.compile(model, backend="eager")
    step = torch.compile(optimizer.step, backend="eager")
    noted = Noted(model)
    with watch(compiled, optimizer, tmp_path / "run", segment_rows=3), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in batches(8):
            optimizer.zero_grad()
            lose(compiled, batch).backward()
            step()
            noted.note()
    assert noted.check(tmp_path / "run").space.names == ("0.weight", "0.bias", "2.weight", "2.bias")


def test_a_step_inside_a_compiled_function(tmp_path):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    @torch.compile(backend="eager")
    def update():
        optimizer.step()

    noted = Noted(model)
    with watch(model, optimizer, tmp_path / "run"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in batches(6):
            optimizer.zero_grad()
            lose(model, batch).backward()
            update()
            noted.note()
    noted.check(tmp_path / "run")


# -- what is trained ---------------------------------------------------------------------------------------


def test_a_parameter_frozen_later_stands_still(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    noted = Noted(model)
    with watch(model, optimizer, tmp_path / "run"):
        for number, batch in enumerate(batches(6)):
            model[0].requires_grad_(number < 3)
            optimizer.zero_grad()
            lose(model, batch).backward()
            optimizer.step()
            noted.note()
    t = noted.check(tmp_path / "run")
    assert not t.updates(3, 6)[:, :42].any()


def unfreeze_later(tmp_path, **options):
    model = net()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    everything, known = Noted(model, list(model.parameters())), Noted(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with watch(model, optimizer, tmp_path / "run", segment_rows=2, **options):
            for number, batch in enumerate(batches(8)):
                if number == 3:
                    model[0].requires_grad_(True)
                optimizer.zero_grad()
                lose(model, batch).backward()
                optimizer.step()
                everything.note()
                known.note()
    return everything, known, [str(w.message) for w in caught]


def test_a_parameter_unfrozen_later_is_named_once_and_the_others_are_recorded_on(tmp_path):
    _, known, messages = unfreeze_later(tmp_path)
    known.check(tmp_path / "run")
    assert len(messages) == 1
    assert "'0.weight' (2 in all) was frozen when recording began" in messages[0]
    assert ended_with(tmp_path / "run")["trained_but_not_recorded"] == ["0.weight", "0.bias"]


def test_with_include_frozen_it_is_recorded(tmp_path):
    everything, _, messages = unfreeze_later(tmp_path, include_frozen=True)
    t = everything.check(tmp_path / "run")
    assert messages == []
    assert t.space.size == 66
    assert not t.updates(0, 3)[:, :42].any()
    assert bool((t.updates(3, 8)[:, :42] != 0).any(dim=1).all())


def test_include_frozen_leaves_the_model_as_it_is(tmp_path):
    model = net()
    model[0].bias.requires_grad_(False)
    with watch(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "run", include_frozen=True):
        assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]


def test_averaged_copies_are_left_alone(tmp_path):
    model = net()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    noted = Noted(model)
    with watch(model, optimizer, tmp_path / "run"):
        for batch in batches(6):
            optimizer.zero_grad()
            lose(model, batch).backward()
            optimizer.step()
            average.update_parameters(model)
            noted.note()
    noted.check(tmp_path / "run")
    alone, other = net(), None
    other = torch.optim.swa_utils.AveragedModel(alone, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    for batch in batches(6):
        optimizer.zero_grad()
        lose(alone, batch).backward()
        optimizer.step()
        other.update_parameters(alone)
    assert torch.equal(flat(list(average.parameters())), flat(list(other.parameters())))


def test_a_copied_optimizer_does_not_record(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    noted = Noted(model)
    with watch(model, optimizer, tmp_path / "run"):
        copied_model, copied = copy.deepcopy((model, optimizer))
        for batch in batches(3):
            optimizer.zero_grad()
            lose(model, batch).backward()
            optimizer.step()
            noted.note()
            lose(copied_model, batch).backward()
            copied.step()
    noted.check(tmp_path / "run")


def test_a_parameter_group_that_comes_later(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    noted = Noted(model)
    with watch(model, optimizer, tmp_path / "run", segment_rows=2):
        for number, batch in enumerate(batches(7)):
            if number == 3:
                optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.02})
            optimizer.zero_grad()
            lose(model, batch).backward()
            optimizer.step()
            noted.note()
            if number < 3:
                schedule.step()
    t = noted.check(tmp_path / "run")
    assert t.learning_rates.shape == (7, 1)
    later = t.scalars["learning_rate_of_group_1"]
    assert later.isnan().tolist() == [True] * 3 + [False] * 4
    assert later[3:].tolist() == [0.02] * 4


def test_a_parameter_that_is_replaced_ends_the_recording(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watch(model, optimizer, tmp_path / "run", segment_rows=4)
    hand = train(model, optimizer, 4)
    model[2].bias = nn.Parameter(torch.zeros(3))
    with pytest.warns(RuntimeWarning, match=r"parameter '2\.bias' was replaced by another object") as caught:
        train(model, optimizer, 6)
    assert len(caught) == 1
    assert recorder.closed
    assert torch.equal(open_run(tmp_path / "run").trajectory.updates(0, 99), hand.updates)


# -- what is not finite ------------------------------------------------------------------------------------


def test_rows_that_are_not_finite_are_flagged(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def after(step, loss):
        if step == 2:
            model[2].weight.data[0, 0] = math.inf
        if step == 4:
            with torch.no_grad():
                for p in model.parameters():
                    p.fill_(1.0)

    with watch(model, optimizer, tmp_path / "run", segment_rows=3):
        train(model, optimizer, 8, after)
    t = open_run(tmp_path / "run").trajectory
    flags = torch.cat([segment.finite for segment in t.segments])
    assert flags.dtype == torch.bool
    assert flags.tolist() == [bool(t.updates(step, step + 1).isfinite().all()) for step in range(8)]
    assert flags.tolist() == [True] * 3 + [False] * 3 + [True] * 2


def test_large_finite_updates_are_not_flagged(tmp_path):
    model = net()
    recorder = watch(model, None, tmp_path / "run")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(2e38)
    recorder.step()
    recorder.close()
    t = open_run(tmp_path / "run").trajectory
    assert t.updates(0, 1).sum().isinf()
    assert t.segments[0].finite.tolist() == [True]


# -- loops of their own ------------------------------------------------------------------------------------


def test_a_loop_without_an_optimizer_says_when_it_has_stepped(tmp_path):
    model = net()
    recorder = watch(model, None, tmp_path / "run", segment_rows=3)
    noted = Noted(model)
    for batch in batches(7):
        gradients = torch.autograd.grad(lose(model, batch), trainable(model))
        with torch.no_grad():
            for p, g in zip(trainable(model), gradients, strict=True):
                p -= 0.1 * g
        recorder.step()
        recorder.log(loss=1.0)
        noted.note()
    recorder.close()
    t = noted.check(tmp_path / "run")
    assert t.learning_rates.isnan().all()
    assert t.scalars["loss"].tolist() == [1.0] * 7
    assert t.optimizer["class"] == "none"


def test_step_beside_an_optimizer_counts_nothing_and_says_so_once(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watch(model, optimizer, tmp_path / "run")
    with pytest.warns(RuntimeWarning, match="here the optimizer's step counts") as caught:
        train(model, optimizer, 4, lambda step, loss: recorder.step())
    recorder.close()
    assert len(caught) == 1
    assert len(open_run(tmp_path / "run").trajectory) == 4


class Wrapper:
    """As Lightning and Accelerate wrap an optimizer."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


def test_wrapped_optimizers_are_unwrapped(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, Wrapper(Wrapper(optimizer)), tmp_path / "run"):
        hand = train(model, optimizer, 3)
    assert torch.equal(open_run(tmp_path / "run").trajectory.updates(0, 3), hand.updates)
