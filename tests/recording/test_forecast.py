"""What a recorder says beforehand, against what it then writes; and which way a budget leaves."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from thalweg.errors import InputError
from thalweg.recording import open_run, watch
from thalweg.recording.forecast import Forecast, choose, rows_of_a_block
from thalweg.recording.keeping import BFLOAT16, EXACT, SKETCH, Keeping
from thalweg.space import ParameterSpace


def space_of(*widths):
    return ParameterSpace.of(nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(widths)]))


def forecast(space, budget=None, steps=None, every=1):
    rows = min(256, rows_of_a_block(4 * space.size))
    return Forecast(space, Keeping(), every, 4, rows, budget=budget, steps=steps)


LARGE = space_of(1000, 1000, 1000, 500)  # 2.5 million


def random_walk(model, recorder, steps):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        recorder.step()


@pytest.mark.parametrize(
    ("widths", "steps"), [((60, 100, 10), 300), ((400, 400, 400), 100)], ids=["small rows", "long rows"]
)
@pytest.mark.parametrize("keep", [EXACT, BFLOAT16, SKETCH])
def test_the_bytes_on_disk_are_as_foretold(tmp_path, keep, widths, steps):
    model = nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(widths)])
    recorder = watch(model, None, tmp_path / "run", keep=keep, sketch_width=256, flush_seconds=1e6, steps=steps)
    foretold = recorder.forecast.bytes_for(steps)
    random_walk(model, recorder, steps)
    recorder.close()
    written = sum(path.stat().st_size for path in (tmp_path / "run" / "segments").iterdir())
    assert 0.8 * foretold < written < 1.1 * foretold
    assert len(open_run(tmp_path / "run").trajectory) == steps


def test_the_most_faithful_way_that_fits_is_chosen():
    exact = forecast(LARGE).bytes_for(1000)
    found = {}
    for share in (1.05, 0.7, 0.3, 0.1, 0.03, 0.01, 0.003, 0.002):
        one = choose(forecast(LARGE, budget=int(share * exact), steps=1000), None)
        assert one.bytes_for(1000) <= one.budget
        found[share] = one
    assert found[1.05].keeping.form == EXACT
    assert found[0.7].keeping.form == BFLOAT16
    assert found[0.3].keeping.form == found[0.03].keeping.form == SKETCH
    widths = [found[share].keeping.width for share in (0.3, 0.1, 0.03)]
    assert widths == sorted(widths, reverse=True)
    assert found[0.002].every > found[0.1].every == 1
    order = [found[share].bytes_for(1000) for share in sorted(found, reverse=True)]
    assert order == sorted(order, reverse=True)


def test_long_runs_have_longer_sums_before_rows_sum_more_steps():
    exact = forecast(LARGE).bytes_for(100_000)
    wide, narrow = (choose(forecast(LARGE, budget=int(share * exact), steps=100_000), None) for share in (0.02, 0.003))
    assert wide.keeping.form == narrow.keeping.form == SKETCH
    assert wide.every == narrow.every == 1
    assert wide.keeping.sum_rows < narrow.keeping.sum_rows


@pytest.mark.parametrize("steps", [60, 900, 100_000])
def test_a_sketched_run_has_sums_enough_to_be_analysed(steps):
    """Weights are known where sums end: a sum as long as the run would leave nothing to look at."""
    exact = forecast(LARGE).bytes_for(steps)
    sketched = 0
    for share in (0.3, 0.1, 0.03, 0.01, 0.003):
        one = choose(forecast(LARGE, budget=int(share * exact + 4e7), steps=steps), None)
        if one.keeping.form == SKETCH:
            sketched += 1
            assert steps / one.every / one.keeping.sum_rows >= 7.5
    assert sketched


def test_small_nets_sum_steps_rather_than_be_sketched():
    small = space_of(20, 10)
    one = choose(forecast(small, budget=60_000, steps=1000), "auto")
    assert one.keeping.form == BFLOAT16
    assert one.every > 1


def test_the_chosen_way_is_recorded_and_fits(tmp_path):
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 10))
    recorder = watch(model, None, tmp_path / "run", budget="6MB", steps=400)
    assert recorder.forecast.keeping.form == SKETCH
    random_walk(model, recorder, 400)
    recorder.close()
    t = open_run(tmp_path / "run").trajectory
    assert t.keeping == recorder.forecast.keeping
    assert int(t.steps[-1]) == 399
    written = sum(path.stat().st_size for path in (tmp_path / "run" / "segments").iterdir())
    assert 0.4 * 6e6 < written <= 6e6
    assert [step for step in t.known_steps.tolist() if step < 399] == list(range(-1, 399, t.keeping.sum_rows))


def test_what_does_not_fit_at_all_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"does not even hold one row of 2,502,500 weights .*; give 15,\d\d\d,\d\d\d or"
    ):
        choose(forecast(LARGE, budget=5_000_000, steps=1000), None)
    with pytest.raises(InputError, match="budget=100 does not hold one row"):
        watch(nn.Linear(10, 10), None, tmp_path / "run", budget=100)


def test_words():
    text = str(choose(forecast(LARGE, budget=2 * 10**9, steps=10_000), None))
    assert "a sketch of every update (at most" in text
    assert "for 10,000 steps" in text
    assert "the budget of 1.9 GiB lasts for about" in text
    assert "times the weights" in text
    assert "Lost: single updates" in text
    assert "Nothing is lost" in str(forecast(LARGE))
    assert "single steps: each row is the exact sum of 4" in str(forecast(LARGE, every=4))
    with_state = replace(forecast(LARGE), moments=True)
    assert "copies of the optimizer's state" in str(with_state)


def test_memory_is_what_blocks_take():
    one = forecast(LARGE)
    assert one.memory_bytes == 3 * (one.rows + 1) * 4 * LARGE.size
    assert one.anchor_rows == 16
    assert forecast(space_of(60, 100, 10)).anchor_rows == 1
