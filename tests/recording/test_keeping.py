"""Runs kept in bfloat16 or as a sketch, held against the same training recorded exactly."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.recording.conftest import flat, trainable
from thalweg import overlap, update_pca
from thalweg.directions import Directions
from thalweg.errors import InputError, RunError
from thalweg.recording import keepers, open_run, watch
from thalweg.recording.exporting import export
from thalweg.recording.keeping import Keeping
from thalweg.recording.rounding import STEP, round_rows
from thalweg.space import ParameterSpace

LAYERS = {"0": 6_100, "2": 1_010}


def wide():
    """Layers of 6,100 and 1,010 weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(60, 100), nn.Tanh(), nn.Linear(100, 10))


def train(model, steps, recorders=(), after=lambda step: None):
    """Steps on noisy batches with momentum; the weights before the first and after each."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(60, 10, generator=generator)
    speeds = [torch.zeros_like(p) for p in model.parameters()]
    seen = [flat(trainable(model))]
    for step in range(steps):
        x = torch.randn(16, 60, generator=generator)
        loss = nn.functional.cross_entropy(model(x), (x @ truth).argmax(dim=1))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, speed, gradient in zip(model.parameters(), speeds, gradients, strict=True):
                speed.mul_(0.9).add_(gradient)
                parameter -= 0.05 * speed
        for recorder in recorders:
            recorder.step()
        seen.append(flat(trainable(model)))
        after(step)
    return torch.stack(seen)


@pytest.fixture
def recorded(tmp_path):
    """Record one training exactly and in another way at the same time."""

    def make(steps=200, **options):
        model = wide()
        exact = watch(model, None, tmp_path / "exact", segment_rows=20)
        other = watch(model, None, tmp_path / "other", **({"segment_rows": 20} | options))
        weights = train(model, steps, [exact, other])
        exact.close()
        other.close()
        return open_run(tmp_path / "exact").trajectory, open_run(tmp_path / "other").trajectory, weights

    return make


def updates_of(weights):
    return (weights[1:] - weights[:-1]).double()


# -- bfloat16 ----------------------------------------------------------------------------------------------


def test_bfloat16_rows_are_wrong_by_two_roundings_at_most(recorded):
    _, t, weights = recorded(keep="bfloat16")
    found, truth = t.updates(0, 200), updates_of(weights)
    assert found.dtype == torch.float32
    before = torch.cat([torch.zeros(1, truth.shape[1], dtype=torch.float64), found[:-1].double().abs()])
    slack = 4e-7  # of the weights' own rounding in float32
    error = (found.double() - truth).abs()
    assert bool((error <= STEP * (found.double().abs() + before) + slack).all())
    assert float(error.max()) > 100 * slack


def test_bfloat16_errors_do_not_add_up(recorded):
    _, t, weights = recorded(keep="bfloat16", segment_rows=10_000, flush_seconds=1e6)
    assert len(t.segments) == 1
    size = float(updates_of(weights).abs().max())
    for step in (-1, 0, 17, 199):
        error = (t.weights(step) - weights[step + 1]).abs().max()
        assert float(error) <= 2 * STEP * size
    assert torch.equal(t.weights(-1), weights[0])
    plain = weights[0] + (weights[1:] - weights[:-1]).bfloat16().float().sum(dim=0)
    assert float((plain - weights[-1]).norm()) > 5 * float((t.weights(199) - weights[-1]).norm())


def test_bfloat16_gram_is_within_the_stated_error(recorded):
    _, t, weights = recorded(keep="bfloat16")
    truth = updates_of(weights)
    error = (t.gram() - truth @ truth.T).abs()
    assert bool((error <= t.gram_error()).all())
    assert float(error.max()) > 0
    lengths = truth.norm(dim=1)
    assert bool((t.gram_error() <= 4.1 * STEP * lengths.max() ** 2).all())


def test_bfloat16_takes_half_the_disk(recorded):
    exact, t, _ = recorded(keep="bfloat16", segment_rows=1000, flush_seconds=1e6)
    assert sum(s.path.stat().st_size for s in t.segments) < 0.53 * sum(s.path.stat().st_size for s in exact.segments)


@pytest.mark.parametrize("size", [3, 40_000])
def test_rounding_goes_on_after_what_is_not_finite(size):
    weights = torch.randn(6, size)
    weights[2, 1] = torch.nan
    weights[4, 0] = torch.inf
    reached = weights[0].clone()
    rows, finite = round_rows(weights, reached)
    assert finite.tolist() == [True, False, False, False, False]
    assert float((reached[2] - weights[5, 2]).abs()) <= 2 * STEP * float(weights[5, 2] - weights[4, 2] + 8)
    assert rows.dtype == torch.bfloat16


# -- a sketch ----------------------------------------------------------------------------------------------


def test_a_sketched_run_has_the_gram_matrix_of_the_sketched_updates(recorded):
    exact, t, weights = recorded(keep="sketch", sketch_width=256)
    assert len(t) == len(exact) == 200
    assert t.gaps == ()
    sketched = t.sketch.of(updates_of(weights))
    assert torch.allclose(t.gram(), sketched @ sketched.T, rtol=0, atol=1e-5 * float(t.gram().max()))
    for layer in LAYERS:
        here = sketched[:, t.columns_of(layer)]
        assert torch.allclose(t.gram(layer), here @ here.T, rtol=0, atol=1e-5 * float(t.gram().max()))
    assert torch.allclose(t.gram("0") + t.gram("2"), t.gram(), rtol=1e-12)


@pytest.mark.parametrize("width", [64, 512])
def test_a_sketched_gram_is_as_wrong_as_is_stated(recorded, width):
    exact, t, _ = recorded(keep="sketch", sketch_width=width)
    shares = (t.gram() - exact.gram()) / t.gram_error()
    spread = float((shares**2).mean().sqrt())
    assert 0.3 < spread < 1.3
    lengths = torch.diagonal(exact.gram()).sqrt()
    stated = t.gram_error() / lengths[:, None] / lengths
    assert float(stated.mean()) == pytest.approx((1.5 / width) ** 0.5, rel=0.5)
    assert torch.equal(exact.gram_error(), torch.zeros(200, 200, dtype=torch.float64))


def test_a_layer_that_is_no_larger_than_the_width_is_exact(recorded):
    exact, t, _ = recorded(keep="sketch", sketch_width=1010)
    assert torch.allclose(t.gram("2"), exact.gram("2"), rtol=1e-5, atol=1e-9)
    assert not torch.allclose(t.gram("0"), exact.gram("0"), rtol=1e-3)


def test_weights_are_known_where_sums_end(recorded):
    _, t, weights = recorded(keep="sketch", sketch_width=64, segment_rows=16)
    assert t.known_steps.tolist() == [-1, 63, 127, 191, 199]
    assert torch.equal(t.weights(-1), weights[0])
    for step in (63, 127, 191, 199):
        error = (t.weights(step) - weights[step + 1]).abs()
        assert bool((error <= STEP * (weights[step + 1] - weights[max(0, step - 63)]).abs().max() * 2).all())
    with pytest.raises(InputError, match=r"no weights after step 100: the nearest are 63, 127, 191; .*known_steps"):
        t.weights(100)
    with pytest.raises(InputError, match="keeps a sketch of its updates and no update itself"):
        t.updates(0, 10)


def test_every_so_many_sums_an_anchor_is_exact(recorded, monkeypatch):
    monkeypatch.setattr("thalweg.recording.keeping.ANCHOR_SUMS", 2)
    _, t, weights = recorded(keep="sketch", sketch_width=64, segment_rows=32)
    anchored = [segment.before for segment in t.segments if segment.anchored]
    assert anchored == [-1, 127]
    assert torch.equal(t.weights(127), weights[128])
    assert not torch.equal(t.weights(63), weights[64])


def test_directions_are_rebuilt_from_sums(recorded):
    exact, t, _ = recorded(steps=256, keep="sketch", sketch_width=1024)
    truth = update_pca(exact, 3, center=False).vectors
    found = update_pca(t, 3, center=False)
    with pytest.warns(RuntimeWarning, match="the sums hold between"):
        vectors = found.vectors
    _, shares = t.rebuild(found.rows.coefficients)
    assert float(shares[0]) > 0.9 > float(shares[2])
    first = vectors[0] / vectors[0].norm()
    assert float((first @ truth[0]).abs()) > 0.95
    assert float(vectors[0].norm()) ** 2 == pytest.approx(float(shares[0]), abs=0.15)
    assert found.explained[0] == pytest.approx(float(update_pca(exact, 3, center=False).explained[0]), rel=0.1)


def test_a_direction_of_one_layer_is_rebuilt_by_what_is_nearest_there(recorded):
    """Its nearest combination differs from that of the whole network, and comes nearer."""
    exact, t, _ = recorded(steps=256, keep="sketch", sketch_width=1010)
    truth = update_pca(exact, 2, layer="2", center=False).vectors[1]
    found = update_pca(t, 2, layer="2", center=False).rows.coefficients[1:]
    vectors, share = t.rebuild(found, "2")
    assert not vectors[:, : LAYERS["0"]].any()
    everywhere = t.rebuild(found)[0][0]
    everywhere[: LAYERS["0"]] = 0.0
    missed = float((vectors[0] - truth * (vectors[0] @ truth).sign()).norm())
    assert missed < float((everywhere - truth * (everywhere @ truth).sign()).norm())
    assert missed**2 == pytest.approx(1 - float(share), abs=0.02)


def test_what_lies_in_the_span_of_the_sums_is_rebuilt_whole(recorded):
    _, t, weights = recorded(steps=192, keep="sketch", sketch_width=512)
    total = torch.ones(1, len(t), dtype=torch.float64)
    vectors, shares = t.rebuild(total)
    assert float(shares) == pytest.approx(1.0, abs=1e-6)
    moved = weights[-1] - weights[0]
    assert float((vectors[0] - moved).norm()) < 3 * STEP * float(moved.norm())


def test_inner_products_with_given_directions_are_estimates(recorded):
    exact, t, _ = recorded(keep="sketch", sketch_width=1000)
    vectors = torch.linalg.qr(torch.randn(7_110, 4, generator=torch.Generator().manual_seed(2)))[0].T
    vectors[0] = exact.updates(50, 51)[0] / exact.updates(50, 51)[0].norm()
    lengths = torch.diagonal(exact.gram()).sqrt()
    error = (t.inner(vectors) - exact.inner(vectors)) / lengths[:, None]
    assert float((error**2).mean().sqrt()) == pytest.approx(1000**-0.5, rel=0.4)
    layered = (t.inner(vectors, layer="2") - exact.inner(vectors, layer="2")).abs()
    assert float(layered.max()) < 0.1 * float(lengths.max())


def test_overlaps_with_a_sketched_run_are_held_against_the_width(recorded):
    exact, t, _ = recorded(keep="sketch", sketch_width=256)
    components = update_pca(t, 5)
    shares = torch.tensor([6_100 / 7_110, 1_010 / 7_110], dtype=torch.float64)
    floor = float((shares * components.layer_energy().sum(dim=0)).sum()) / 256
    small = 0
    for seed in range(30):
        vectors = torch.randn(4, 7_110, generator=torch.Generator().manual_seed(seed))
        found = overlap(Directions(vectors, space=t.space), components, "layer_matched", draws=200)
        small += found.p_value < 0.05
        assert found.expected == pytest.approx(floor, rel=0.1)
        assert found.uniform.expected == pytest.approx(floor, rel=0.02)
        assert 0.3 * found.expected < found.mean < 3 * found.expected
    assert small <= 6
    vectors = torch.randn(4, 7_110, generator=torch.Generator().manual_seed(0))
    truly = overlap(Directions(vectors, space=t.space), update_pca(exact, 5))
    assert truly.uniform.expected == pytest.approx(5 / 7_110)


def test_a_lost_segment_hides_weights_until_the_next_anchor(recorded, monkeypatch):
    monkeypatch.setattr("thalweg.recording.keeping.ANCHOR_SUMS", 2)
    _, t, weights = recorded(steps=320, keep="sketch", sketch_width=64, segment_rows=32)
    lost = next(s for s in t.segments if s.sum_after is not None)
    lost.path.unlink()
    again = open_run(t.folder).trajectory
    assert again.gaps == ((0, 64),)
    assert again.known_steps.tolist() == [127, 191, 255, 319]
    assert torch.equal(again.weights(127), weights[128])
    with pytest.raises(InputError, match="no weights after step 63"):
        again.weights(63)


def test_rows_are_written_when_their_time_is_up(tmp_path, monkeypatch):
    times = iter(range(10_000))
    monkeypatch.setattr(keepers.time, "monotonic", lambda: float(next(times)))
    model = wide()
    recorder = watch(model, None, tmp_path / "run", keep="sketch", sketch_width=64, segment_rows=2, flush_seconds=6.0)
    train(model, 40, [recorder])
    recorder._writer._queue.put(None)
    recorder._writer._thread.join()  # killed before it could write what waits
    t = open_run(tmp_path / "run").trajectory
    assert len(t.segments) > 2
    recorder.closed = True


def test_nan_rows_are_flagged_and_an_anchor_follows(tmp_path):
    model = wide()
    weights = [flat(trainable(model))]
    with watch(model, None, tmp_path / "run", keep="sketch", sketch_width=64, segment_rows=32) as recorder:
        for step in range(200):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.01 * torch.randn_like(parameter)
                model[0].weight[0, 0] = torch.nan if step == 70 else 1.0
            recorder.step()
            weights.append(flat(trainable(model)))
    t = open_run(tmp_path / "run").trajectory
    with pytest.warns(RuntimeWarning, match="2 of 200 updates are not finite and are left out"):
        t.gram()
    assert t.steps[~t.finite].tolist() == [70, 71]
    assert [s.before for s in t.segments if s.anchored] == [-1]
    assert float((t.weights(191) - weights[192]).abs().max()) < 0.01
    with watch(model, None, tmp_path / "end", keep="sketch", sketch_width=64, segment_rows=32) as recorder:
        for step in range(200):
            with torch.no_grad():
                model[0].weight[0, 0] = torch.nan if step == 63 else 1.0 + step
            recorder.step()
    t = open_run(tmp_path / "end").trajectory
    assert [s.before for s in t.segments if s.anchored] == [-1, 63, 127]
    assert float(t.weights(191)[0]) == 192.0


# -- what a run says of itself, resuming, budgets ----------------------------------------------------------------


@pytest.mark.parametrize("keep", ["bfloat16", "sketch"])
def test_a_closed_run_goes_on_without_a_gap(tmp_path, keep):
    model = wide()
    options = {"keep": keep, "sketch_width": 128, "segment_rows": 16}
    with watch(model, None, tmp_path / "run", **options) as recorder:
        train(model, 50, [recorder])
    with watch(model, None, tmp_path / "run", resume=True) as recorder:
        weights = train(model, 50, [recorder])
    t = open_run(tmp_path / "run").trajectory
    assert t.gaps == ()
    assert t.keeping.form == keep
    assert t.steps.tolist() == list(range(100))
    assert torch.equal(t.weights(49), weights[0])
    with pytest.raises(RunError, match=f"its updates are kept as '{keep}', not 'exact'"):
        watch(model, None, tmp_path / "run", resume=True, keep="exact")


def test_what_a_sketched_run_can_be_exported_to(recorded, tmp_path):
    _, t, weights = recorded(steps=100, keep="sketch", sketch_width=64)
    with pytest.raises(InputError, match=r"npz holds every update; --to checkpoints --steps all writes the 3 weights"):
        export(t.folder, "npz", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
    made = export(t.folder, "checkpoints", tmp_path / "out", steps="all")
    assert made["steps"] == t.known_steps.tolist() == [-1, 63, 99]
    first = load_file(str(tmp_path / "out" / "step--1.safetensors"))
    assert torch.equal(flat([first[name] for name in t.space.names]), weights[0])


def test_the_manifest_says_how_updates_are_kept(recorded):
    _, t, _ = recorded(steps=5, keep="sketch", sketch_width=64)
    path = t.folder / "manifest.json"
    about = json.loads(path.read_text())
    assert about["keep"] == {"form": "sketch", "width": 64, "seed": 0, "sum_rows": 64, "anchor_sums": 16}
    held = load_file(str(t.segments[0].path))
    assert held["updates"].shape == (5, 128)
    assert held["sum"].dtype == torch.bfloat16
    path.write_text(json.dumps(about | {"keep": {"form": "wavelets"}}))
    with pytest.raises(RunError, match=r"damaged|does not know"):
        open_run(t.folder)


@pytest.mark.parametrize("keep", ["exact", "bfloat16", "sketch"])
def test_a_budget_holds_however_updates_are_kept(tmp_path, keep):
    model = wide()
    budget = 400_000
    recorder = watch(model, None, tmp_path / "run", keep=keep, sketch_width=128, budget=budget, segment_rows=8)
    with pytest.warns(RuntimeWarning, match="budget of 400,000 bytes is used up"):
        train(model, 2000, [recorder])
    size = sum(path.stat().st_size for path in (tmp_path / "run" / "segments").iterdir())
    assert 0.6 * budget < size <= budget
    t = open_run(tmp_path / "run").trajectory
    assert len(t) == {"exact": 11, "bfloat16": 20}.get(keep, len(t))
    if keep == "sketch":
        assert len(t) > 100
        assert int(t.known_steps[-1]) == int(t.steps[-1])


def test_other_ways_are_refused(tmp_path):
    with pytest.raises(InputError, match="keep='zip': give one of 'exact', 'bfloat16', 'sketch', 'auto'"):
        watch(wide(), None, tmp_path / "run", keep="zip")
    with pytest.raises(InputError, match=r"keep='auto' chooses by the budget and the steps to come"):
        watch(wide(), None, tmp_path / "run", keep="auto")
    with pytest.raises(InputError, match="sketch_width=0"):
        watch(wide(), None, tmp_path / "run", keep="sketch", sketch_width=0)
    with pytest.raises(InputError, match="steps=-1"):
        watch(wide(), None, tmp_path / "run", steps=-1)
    assert not (tmp_path / "run").exists()


def test_the_recorder_says_what_is_lost_before_the_first_step(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="thalweg"):
        watch(wide(), None, tmp_path / "a").close()
        watch(wide(), None, tmp_path / "b", keep="sketch", budget="1MB").close()
    quiet, loud = caplog.records
    assert quiet.levelno == logging.INFO
    assert "every update, bit for bit" in quiet.getMessage()
    assert "Nothing is lost" in quiet.getMessage()
    assert loud.levelno == logging.WARNING
    for words in ("a sketch of every update", "lasts for about", "In memory at most", "Lost: single updates"):
        assert words in loud.getMessage()


def test_a_sketch_needs_less_memory_on_disk_as_it_says():
    keeping = Keeping.sketched(64)
    space = ParameterSpace.of(wide())
    assert keeping.columns(space).size == 128
    assert np.isclose(keeping.row_bytes(space, 4), 512)
