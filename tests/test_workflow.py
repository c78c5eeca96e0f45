"""The main job end to end, its numbers recomputed by other means, and held where there is nothing to see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from tests.conftest import pooled_function
from thalweg.analysis.stages import stage_windows
from thalweg.costs import Costs
from thalweg.measurement import curvature
from thalweg.measurement.base import Measurement, Settings
from thalweg.operators.graphs import KeptGraphs
from thalweg.runs import finite

pytestmark = pytest.mark.xdist_group("workflow")  # its module's fixtures are made once

SETTINGS = Settings(k=4, components=(3, 6), stages=2, tol=1e-8, draws=300)


def small_net() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def data(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(6, 3, generator=torch.Generator().manual_seed(99)).double()
    batches = []
    for count in (40, 9, 31):
        inputs = torch.randn(count, 6, generator=generator).double()
        batches.append((inputs, (inputs @ teacher).argmax(dim=1)))
    return batches


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def record(model: nn.Module, folder: Path, steps: int = 60) -> np.ndarray:
    """Train with a plain loop; the weights after every step and before the first, by hand."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = data()
    path = [flat(model)]
    with tw.watch(model, optimizer, folder) as recorder:
        for step in range(steps):
            optimizer.zero_grad()
            loss = cross_entropy(model, batches[step % 3])
            loss.backward()
            optimizer.step()
            recorder.log(loss=loss.item())
            path.append(flat(model))
    return np.array(path)


def flat(model: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().copy()


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], np.ndarray, nn.Module, Path]:
    folder = tmp_path_factory.mktemp("workflow") / "run"
    model = small_net()
    path = record(model, folder)
    untrained = small_net()  # the recorded weights are used, not the ones the problem comes with
    problem = tw.Problem(untrained, cross_entropy, data())
    held_out = tw.Problem(untrained, cross_entropy, data(1))
    result = tw.analyse(folder, problem, held_out, settings=SETTINGS, command="the command")
    return result, path, model, folder


def test_the_valley_is_that_of_the_last_weights(analysed: Any) -> None:
    result, path, model, _ = analysed
    valley, last = result["valley"], torch.as_tensor(path[-1])
    window = stage_windows(tw.open_run(analysed[3]).trajectory, 2)[-1]
    assert valley["reach"] == pytest.approx(0.5 * np.linalg.norm(path[-1] - path[window[0]]))
    matrix, _ = dense(model, path[-1])
    for part, seed in (("train", 0), ("held_out", 1)):
        _, there = dense(model, path[-1], seed)
        for curve in valley["curves"].values():
            assert curve[part][len(curve[part]) // 2] == pytest.approx(there)
    stiff = torch.as_tensor(np.linalg.eigh(matrix)[1][:, -1])
    ends = [dense(model, (last + sign * valley["reach"] * stiff).numpy())[1] for sign in (-1, 1)]
    found = valley["curves"]["stiff"]["train"]
    assert sorted([found[0], found[-1]]) == pytest.approx(sorted(ends), rel=1e-6)  # an eigenvector has no sign
    assert min(ends) > max(valley["curves"]["random"]["train"][0], valley["curves"]["random"]["train"][-1])


def test_the_plane_goes_through_the_last_weights(analysed: Any) -> None:
    result, path, model, folder = analysed
    surface, end = result["surface"], np.array(result["path"]["points"][-1])
    t = tw.open_run(folder).trajectory
    first, second = (tw.weight_pca(t, k=2).vectors[i].double().numpy() for i in range(2))
    for i, j in ((0, 0), (5, 11), (16, 3)):
        there = path[-1] + (surface["x"][j] - end[0]) * first + (surface["y"][i] - end[1]) * second
        assert surface["losses"][i][j] == pytest.approx(dense(model, there)[1], rel=1e-5)
    points = np.array(result["path"]["points"])
    for axis, values in enumerate((surface["x"], surface["y"])):
        assert values[0] < points[:, axis].min()
        assert values[-1] > points[:, axis].max()


def dense(model: nn.Module, weights: np.ndarray, seed: int = 0) -> tuple[np.ndarray, float]:
    inputs, labels = (torch.cat(parts) for parts in zip(*data(seed), strict=True))
    total, _ = pooled_function(model, lambda call: nn.functional.cross_entropy(call(inputs), labels))
    there = torch.as_tensor(weights)
    return torch.autograd.functional.hessian(total, there).numpy(), float(total(there))


def components(points: np.ndarray, count: int) -> np.ndarray:
    return np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][:count]


def test_spectra_and_losses_against_dense(analysed: Any) -> None:
    result, path, model, _ = analysed
    assert [stage["step"] for stage in result["stages"]] == [29, 59]
    for stage in result["stages"]:
        hessian, loss = dense(model, path[stage["step"] + 1])
        assert stage["loss"] == pytest.approx(loss, rel=1e-12)
        np.testing.assert_allclose(stage["spectrum"]["values"], np.linalg.eigvalsh(hessian)[::-1][:4], rtol=1e-9)
        assert all(stage["spectrum"]["converged"])
        assert stage["spectrum"]["certificate"] == "complete"
        assert stage["spectrum"]["complement_searched"]
    held_out, loss = dense(model, path[-1], seed=1)
    assert result["loss"]["held_out"] == pytest.approx(loss, rel=1e-12)
    top = np.linalg.eigh(dense(model, path[-1])[0])[1][:, ::-1][:, :4]
    np.testing.assert_allclose(result["held_out"]["curvature"], np.diag(top.T @ held_out @ top), rtol=1e-5)
    values, vectors = np.linalg.eigh(held_out)
    np.testing.assert_allclose(result["held_out"]["values"], values[::-1][:4], rtol=1e-8)
    share = ((vectors[:, ::-1][:, :4].T @ top) ** 2).sum() / 4
    assert result["held_out"]["subspace"] == pytest.approx(share, rel=1e-5)
    assert result["held_out"]["certificate"] == "complete"


def test_moments_noise_and_relative_sharpness_against_dense(analysed: Any) -> None:
    result, path, model, _ = analysed
    spaces = []
    for stage in result["stages"]:
        values, vectors = np.linalg.eigh(dense(model, path[stage["step"] + 1])[0])
        spaces.append(vectors[:, ::-1][:, :4])
        assert stage["tracking"]["threshold"] == pytest.approx(2 * 1.9 / 0.1)
        assert stage["tracking"]["of_threshold"] == pytest.approx(values[-1] / 38, rel=1e-8)
    assert result["stages"][0]["tracking"]["persistence"] is None
    kept = ((spaces[1].T @ spaces[0]) ** 2).sum() / 4
    assert result["stages"][1]["tracking"]["persistence"] == pytest.approx(kept, rel=1e-5)
    hessian, loss = dense(model, path[-1])
    entries = np.abs(path[-1])
    scaled = np.linalg.eigvalsh(entries[:, None] * hessian * entries)[-1]
    assert result["sharpness"]["entry"]["value"] == pytest.approx(scaled, rel=1e-7)
    assert result["sharpness"]["raw"] == result["stages"][-1]["spectrum"]["values"][0]
    rows = result["robustness"]["rows"]
    assert rows[0]["train"] == pytest.approx(loss, rel=1e-12)
    assert {(row["noise"], row["level"]) for row in rows[1:]} == {
        (n, at) for n in ("inputs", "labels") for at in (0.1, 0.3)
    }


def test_eigenvalues_are_counted_as_a_dense_spectrum_has_them(analysed: Any) -> None:
    _, _, model, folder = analysed
    problem = tw.Problem(model, cross_entropy, data())
    run = tw.open_run(folder)
    settings = Settings(density_probes=40, density_steps=48)
    costs = Costs()
    m = Measurement(run, run.trajectory, problem, None, settings, None, costs, print, False)
    found = curvature.density(m, problem, problem.graphs())
    assert found is not None
    hessian = problem.hessian()
    unit = torch.eye(hessian.shape[0], dtype=torch.float64)
    values = torch.linalg.eigvalsh(torch.stack([hessian.matvec(row) for row in unit]))
    assert found["largest"] == pytest.approx(float(values[-1]), rel=1e-6)
    assert found["smallest"] == pytest.approx(float(values[0]), rel=1e-3)
    for side, sign in (("above", 1), ("below", -1)):
        rows = zip(found["levels"], *(found[side][part] for part in ("low", "count", "high")), strict=True)
        for level, low, count, high in rows:
            true = int((sign * values > level).sum())
            assert low - 1e-6 <= true <= high + 1e-6
            assert low - 1e-6 <= count <= high + 1e-6
    assert found["clearly_negative"]
    assert found["above"]["high"][found["stiff"]] <= 4 * found["above"]["low"][found["stiff"]]
    apart = np.trapezoid(found["near"], found["grid"]) / (found["width"] * np.sqrt(2 * np.pi))
    assert apart == pytest.approx(len(values), rel=1e-3)
    assert costs.products == found["matvecs"] == 40 * 48


@pytest.mark.parametrize("settings", [Settings(density_steps=0), Settings(density_probes=1)])
def test_a_density_that_is_not_measured_is_left_out_or_told(analysed: Any, settings: Settings) -> None:
    _, _, model, folder = analysed
    run, problem = tw.open_run(folder), tw.Problem(model, cross_entropy, data())
    m = Measurement(run, run.trajectory, problem, None, settings, None, Costs(), print, False)
    found = curvature.density(m, problem, problem.graphs())
    assert found is None if settings.density_steps == 0 else "use 2 or more" in found["reason"]


def test_every_agreement_against_dense_components(analysed: Any) -> None:
    result, path, model, _ = analysed
    seen = set()
    updates = np.diff(path, axis=0)
    gradients = -(updates - 0.9 * np.vstack([np.zeros_like(updates[:1]), updates[:-1]])) / 0.1
    for stage in result["stages"]:
        top = np.linalg.eigh(dense(model, path[stage["step"] + 1])[0])[1][:, ::-1][:, :4]
        for row in stage["agreement"]:
            start, stop = row["window"]
            points = {
                "updates": updates[start:stop],
                "weights": path[start : stop + 1],
                "gradients": gradients[start:stop],
            }
            basis = components(points[row["source"]], row["components"])
            captured = ((basis @ top) ** 2).sum(axis=0)
            np.testing.assert_allclose(row["per_direction"], captured, rtol=1e-5, atol=1e-8)
            assert row["captured"] == pytest.approx(captured.mean(), rel=1e-5)
            assert row["nulls"]["uniform"]["expected"] == row["components"] / path.shape[1]
            assert 0 < row["nulls"]["layer_matched"]["p_value"] <= 1
            seen.add((row["source"], row["components"], row["window_name"]))
    assert len(seen) == 3 * 2 * 2


def test_layers_path_heat_map_and_explained_against_dense(analysed: Any) -> None:
    result, path, model, _ = analysed
    hessian, _ = dense(model, path[-1])
    updates = np.diff(path, axis=0)
    spans = {"0": slice(0, 56), "2": slice(56, 83)}
    for record_ in result["layers"]:
        span = spans[record_["layer"]]
        assert record_["values"][0] == pytest.approx(np.linalg.eigvalsh(hessian[span, span])[-1], rel=1e-8)
        assert record_["update_energy"] == pytest.approx((updates[:, span] ** 2).sum() / (updates**2).sum())
        assert record_["weight_energy"] == pytest.approx((path[-1][span] ** 2).sum() / (path[-1] ** 2).sum())
    assert sum(r["eigenvector_energy"] for r in result["layers"]) == pytest.approx(1.0)
    centered = path - path.mean(axis=0)
    singular = np.linalg.svd(centered, compute_uv=False)
    shares = singular**2 / (singular**2).sum()
    np.testing.assert_allclose(result["components"]["weights"]["explained"], shares[:6], rtol=1e-6)
    plane = components(path, 2)
    points = np.array(result["path"]["points"])
    np.testing.assert_allclose(np.abs(points), np.abs((path - path[0]) @ plane.T), atol=1e-6)
    assert result["path"]["steps"] == list(range(-1, 60))
    top = np.linalg.eigh(hessian)[1][:, ::-1][:, :4]
    np.testing.assert_allclose(
        result["heat_map"]["squared"], (top.T @ components(updates[30:], 4).T) ** 2, rtol=1e-4, atol=1e-7
    )


def test_what_was_kept_is_what_was_returned(analysed: Any) -> None:
    result, _, _, folder = analysed
    run = tw.open_run(folder)
    assert run.load("analysis") == result
    assert json.loads((folder / "results" / "analysis.json").read_text()) == result
    kept = run.load_directions("eigenvectors")
    assert kept.values is not None
    np.testing.assert_array_equal(kept.values, result["stages"][-1]["spectrum"]["values"])
    assert result["command"] == "the command"
    assert result["cost"]["products"] > 0


def test_training_on_a_task_agrees_with_its_curvature(analysed: Any) -> None:
    result = analysed[0]
    assert result["verdict"]["word"] == "agreement"
    assert result["verdict"]["captured"] > 5 * result["verdict"]["layer_matched"]


def test_weights_singular_directions_and_the_table_against_dense(analysed: Any) -> None:
    result, path, model, _ = analysed
    hessian, _ = dense(model, path[-1])
    top = np.linalg.eigh(hessian)[1][:, ::-1][:, :4]
    weights = path[-1]
    shares = (top.T @ weights) ** 2 / (weights @ weights)
    np.testing.assert_allclose(
        [row["alignment"] for row in result["alignment"]["directions"]], shares, rtol=1e-4, atol=1e-12
    )
    assert result["alignment"]["captured"] == pytest.approx(shares.sum(), rel=1e-4)
    names = dict(model.named_parameters())
    places = np.cumsum([0, *(p.numel() for p in names.values())])
    spans = {name: slice(a, b) for name, a, b in zip(names, places, places[1:], strict=False)}
    for row in result["singular"]:
        span = spans[row["parameter"]]
        u, s, vt = np.linalg.svd(weights[span].reshape(names[row["parameter"]].shape), full_matrices=False)
        direction = np.outer(u[:, row["index"]], vt[row["index"]]).ravel()
        assert row["value"] == pytest.approx(s[row["index"]], rel=1e-9)
        assert row["curvature"] == pytest.approx(direction @ hessian[span, span] @ direction, rel=1e-6, abs=1e-9)
    rows = {(row["label"], row["index"]): row for row in result["directions"]}
    inputs, labels = (torch.cat(parts) for parts in zip(*data(), strict=True))
    total, _ = pooled_function(model, lambda call: nn.functional.cross_entropy(call(inputs), labels))
    gradient = torch.autograd.functional.jacobian(total, torch.as_tensor(weights)).numpy()
    assert abs(rows["gradient", 0]["slope"]) == pytest.approx(np.linalg.norm(gradient), rel=1e-9)
    for index in range(4):
        found = rows["Hessian eigenvectors", index]
        assert found["curvature"] == pytest.approx(np.linalg.eigvalsh(hessian)[::-1][index], rel=1e-6)
        assert abs(found["slope"]) == pytest.approx(abs(top[:, index] @ gradient), rel=1e-3, abs=1e-9)
    assert {label for label, _ in rows} >= {"PCA of updates", "PCA of weights", "SVD of weights"}
    assert "82" in result["drift"]["reason"]  # 60 steps are too few for it, and that is said


def test_the_hessian_out_of_components_against_dense(analysed: Any) -> None:
    result, path, model, _ = analysed
    hessian, _ = dense(model, path[-1])
    updates = np.diff(path, axis=0)[30:]
    early, fresh = updates[:-5], updates[-5:]
    row = next(r for r in result["approximation"]["updates"] if r["k"] == 10)
    basis = components(early, 10)
    middle = basis @ hessian @ basis.T
    true = np.linalg.eigvalsh(hessian)[::-1][:4]
    assert row["top_share"] == pytest.approx(np.linalg.eigvalsh(middle)[::-1][:4].sum() / true.sum(), rel=1e-4)
    inside = fresh @ basis.T
    shares = ((inside @ middle) * inside).sum(axis=1) / ((fresh @ hessian) * fresh).sum(axis=1)
    assert row["fresh_share"] == pytest.approx(np.median(shares), rel=1e-4)


def test_a_run_with_too_many_rows_for_a_gram_matrix_is_analysed_all_the_same(
    tmp_path: Path, analysed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run, once with its Gram matrix and once as if that had no room."""
    whole = analysed[0]
    record(small_net(), tmp_path / "run")
    for name, value in (("EXACT_ROWS", 10), ("WHOLE_LIMIT", 8 * 45**2)):  # 60 rows, and 30 of them in a window
        monkeypatch.setattr(f"thalweg.recording.trajectory.{name}", value)
    monkeypatch.setattr("thalweg.analysis.random_walk.DENSE_ROWS", 10)
    untrained = small_net()
    problem, held_out = tw.Problem(untrained, cross_entropy, data()), tw.Problem(untrained, cross_entropy, data(1))
    result = tw.analyse(tmp_path / "run", problem, held_out, settings=SETTINGS)
    for one, other in zip(result["stages"], whole["stages"], strict=True):
        assert one["spectrum"]["values"] == pytest.approx(other["spectrum"]["values"], rel=1e-9)
        for mine, theirs in zip(one["agreement"], other["agreement"], strict=True):
            assert mine["captured"] == pytest.approx(theirs["captured"], abs=1e-3)
    for mine, theirs in zip(result["layers"], whole["layers"], strict=True):
        assert mine["update_energy"] == pytest.approx(theirs["update_energy"], rel=1e-10)
    assert result["components"]["random_walk"] == {
        name: pytest.approx(values, rel=1e-9) for name, values in whole["components"]["random_walk"].items()
    }
    assert result["drift"] == whole["drift"]
    for mine, theirs in zip(result["directions"], whole["directions"], strict=True):
        assert mine["gain"] == pytest.approx(theirs["gain"], rel=1e-2, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_random_walk_is_not_called_a_finding(tmp_path: Path, seed: int) -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(seed)
    with tw.watch(model, optimizer, tmp_path / "walk"):
        for _ in range(100):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            optimizer.step()
    problem = tw.Problem(model, cross_entropy, data())
    result = tw.analyse(tmp_path / "walk", problem, settings=Settings(k=4, components=(3,), stages=1, draws=300))
    assert result["components"]["weights"]["explained"][0] > 0.4  # the picture looks like a finding
    assert result["verdict"]["word"] == "no agreement"
    assert not result["drift"]["found"]


def test_batch_norm_statistics_are_the_recorded_ones(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    fresh = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    record(model, tmp_path / "run", steps=20)
    trained = tw.Problem(model, cross_entropy, data())
    result = tw.analyse(
        tmp_path / "run", tw.Problem(fresh, cross_entropy, data()), settings=Settings(k=2, components=(2,), stages=1)
    )
    assert result["stages"][0]["exact"]
    assert result["loss"]["train"] == pytest.approx(trained.loss(), rel=1e-12)
    assert float(fresh[1].running_mean.abs().max()) == 0.0  # the user's model was not touched


def test_a_classifier_with_padded_unequal_batches(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for count, length in ((5, 9), (1, 4), (7, 12)):
        real = torch.randint(2, length + 1, (count, 1), generator=generator)
        mask = (torch.arange(length)[None, :] < real).long()
        ids = torch.randint(1, 30, (count, length), generator=generator) * mask
        labels = torch.randint(0, 3, (count,), generator=generator)
        batches.append(transformers.BatchEncoding({"input_ids": ids, "attention_mask": mask, "labels": labels}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with tw.watch(model, optimizer, tmp_path / "run"):
        for step in range(12):
            optimizer.zero_grad()
            model(**batches[step % 3]).loss.backward()
            optimizer.step()
    result = tw.analyse(
        tmp_path / "run", tw.Problem(model, None, batches), settings=Settings(k=2, components=(3,), stages=1, draws=50)
    )
    assert result["problem"]["samples"] == 13
    assert all(result["stages"][0]["spectrum"]["converged"])
    assert "torch.optim.SGD only" in result["components"]["gradients"]["reason"]
    assert {row["source"] for row in result["stages"][0]["agreement"]} == {"updates", "weights"}


def test_another_models_problem_is_refused(analysed: Any) -> None:
    folder = analysed[3]
    other = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    with pytest.raises(tw.InputError, match=r"'0\.weight' of shape \(9, 6\), expected \(8, 6\)"):
        tw.analyse(folder, tw.Problem(other, cross_entropy, data()))


def test_too_short_a_run_says_so(tmp_path: Path) -> None:
    model = small_net()
    record(model, tmp_path / "run", steps=4)
    problem = tw.Problem(model, cross_entropy, data())
    with pytest.raises(tw.InputError, match=r"stages=3 of 4 recorded rows.*--stages 1"):
        tw.analyse(tmp_path / "run", problem)


def test_windows_cover_the_run_without_overlap(analysed: Any) -> None:
    trajectory = tw.open_run(analysed[3]).trajectory
    assert stage_windows(trajectory, 4) == [(0, 15), (15, 30), (30, 45), (45, 60)]


def test_json_holds_no_infinities() -> None:
    assert finite({"a": [1.0, float("nan")], "b": (float("inf"), "x", 3)}) == {"a": [1.0, None], "b": [None, "x", 3]}


def test_control_c_ends_the_analysis_and_not_only_one_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_net()
    record(model, tmp_path / "run", steps=20)
    problem = tw.Problem(model, cross_entropy, data())
    products = iter(range(5))
    multiply = KeptGraphs.multiply

    def interrupted(self: Any, *arguments: Any) -> Tensor:
        if next(products, None) is None:
            monkeypatch.setattr(KeptGraphs, "multiply", multiply)
            raise KeyboardInterrupt
        return multiply(self, *arguments)

    monkeypatch.setattr(KeptGraphs, "multiply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tw.analyse(tmp_path / "run", problem, settings=Settings(k=2, components=(2,), stages=1))


def test_a_sketched_run_is_analysed_where_its_weights_are_known(tmp_path: Path) -> None:
    """The curvature is that of exact weights; what the sketch cannot tell is said, and chance is counted with it."""
    model = nn.Sequential(nn.Linear(6, 30), nn.Tanh(), nn.Linear(30, 3)).double()
    batches = data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with tw.watch(model, optimizer, tmp_path / "run", keep="sketch", sketch_width=64, segment_rows=16):
        for step in range(200):
            optimizer.zero_grad()
            cross_entropy(model, batches[step % 3]).backward()
            optimizer.step()
    problem = tw.Problem(model, cross_entropy, batches)
    result = tw.analyse(tmp_path / "run", problem, settings=SETTINGS)
    t = tw.open_run(tmp_path / "run").trajectory
    # an anchor stands before row 32, since momenta are kept there: the sums end at 31, 95, 159 and 199
    assert [stage["step"] for stage in result["stages"]] == [95, 199]
    assert {stage["step"] for stage in result["stages"]} <= set(t.known_steps.tolist())
    assert result["loss"]["train"] == pytest.approx(problem.loss(), rel=1e-4)
    for row in result["stages"][-1]["agreement"]:
        for null in row["nulls"].values():
            assert 1.5 * row["components"] / 303 < null["expected"] < 1.6 * row["components"] / 64
    assert result["run"]["keep"]["form"] == "sketch"
    pages = [path.read_text(encoding="utf-8") for path in tw.report(tmp_path / "run", ("en", "ja"))]
    assert any("at most 64 numbers a layer" in page for page in pages)
    assert any("最大 64 個の数" in page for page in pages)
