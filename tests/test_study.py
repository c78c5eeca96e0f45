"""The study: cells that go on where they were stopped, and verdicts derived again by other means."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import thalweg.study as study
from thalweg.errors import InputError
from thalweg.study import CLAIMS, cells, run_study, scoreboard
from thalweg.study.productive import run_trials
from thalweg.study.trainings import Training

TASKS = ("digits", "tabular", "lstm")


def cell(task: str, optimizer: str, seed: int, **changes: object) -> dict[str, object]:
    generator = np.random.default_rng([TASKS.index(task), optimizer == "sgd", seed])
    return {
        "task": task, "optimizer": optimizer, "seed": seed, "drift_p": 0.002, "drift_model": "power law",
        "persistence": 0.9, "weights_captured": 0.001 * (1 + generator.random()), "weights_by_layer": 0.001,
        "updates": 0.6 + 0.1 * generator.random(), "weights": 0.3 + 0.1 * generator.random(),
        "gradients": 0.7 if optimizer == "sgd" else None, "updates_by_layer": 0.001,
        "singular": 3 + generator.random(), "layer_shares": [0.7, 0.1, 0.05],
        "depth_correlation": -0.5 + 0.1 * generator.random(), "products": 100, "seconds": 2.0, **changes,
    }  # fmt: skip


def tried(task: str, optimizer: str, seed: int, **least: float) -> dict[str, object]:
    """A cell of C7."""
    generator = np.random.default_rng([9, TASKS.index(task), optimizer == "sgd", seed])
    expected = {"early": 0.2, "middle": -0.2, "late": 0.0, **least}
    trials = {stage: {"least": value + 0.01 * generator.standard_normal()} for stage, value in expected.items()}
    return {"task": task, "optimizer": optimizer, "seed": seed, "trials": trials, "seconds": 3.0}


@pytest.fixture
def found() -> list[dict[str, object]]:
    return [cell(task, optimizer, seed) for task in TASKS for optimizer in ("sgd", "adamw") for seed in range(3)]


def test_verdicts_are_derived_again_from_the_cells(found: list[dict[str, object]]) -> None:
    """About twenty lines that share nothing with the study but its cells and the thresholds of decision 0011."""
    thresholds = {"C2b": (1.0, 0.0), "C3": (0.05, 0.0), "C4": (1.0, 0.0), "C5": (0.5, 0.5), "C6": (0.3, 0.0)}
    effects = {
        "C2b": lambda c: math.log2(c["updates"] / c["updates_by_layer"]),
        "C3": lambda c: c["updates"] - c["weights"],
        "C4": lambda c: c["singular"],
        "C5": lambda c: sorted(c["layer_shares"])[1],
        "C6": lambda c: c["depth_correlation"],
    }
    board = {row["claim"]: row for row in scoreboard(found)["claims"]}
    for name, effect in effects.items():
        units: dict[str, list[float]] = {}
        for c in found:
            units.setdefault(f"{c['task']}/{c['optimizer']}", []).append(effect(c))
        means = [sum(values) / len(values) for values in units.values()]
        spread = stats.sem(means)
        low, high = stats.t.interval(0.95, len(means) - 1, np.mean(means), spread) if spread else (means[0], means[0])
        above, below = thresholds[name]
        verdict = "supported" if low > above else "contradicted" if high < below else "no evidence"
        assert board[name]["verdict"] == verdict
        assert board[name]["interval"] == pytest.approx([low, high])


def test_the_published_verdicts_follow_from_the_published_cells() -> None:
    """The page against the cells in docs/study, by other means than the study's own."""
    docs = Path(__file__).parents[1] / "docs"
    kept = [json.loads(path.read_text()) for path in sorted((docs / "study").glob("*.json"))]
    page = (docs / "study.md").read_text()
    effects = {
        "C1a": (0.5, 0.5, lambda c: float(c["drift_p"] < 0.05 and (c["persistence"] or 0.0) >= 0.5)),
        "C2b": (1.0, 0.0, lambda c: math.log2(c["updates"] / c["updates_by_layer"])),
        "C3": (0.05, 0.0, lambda c: c["updates"] - c["weights"]),
        "C4": (1.0, 0.0, lambda c: c["singular"]),
        "C5": (0.5, 0.5, lambda c: float(np.median(c["layer_shares"]))),
        "C6": (0.3, 0.0, lambda c: c["depth_correlation"]),
    }
    for name, (above, below, effect) in effects.items():
        units: dict[str, list[float]] = {}
        for c in kept:
            units.setdefault(f"{c['task']}/{c['optimizer']}", []).append(effect(c))
        means = np.array([np.mean(values) for values in units.values()])
        half = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means))
        low, high = means.mean() - half, means.mean() + half
        verdict = "supported" if low > above else "contradicted" if high < below else "no evidence"
        line = next(line for line in page.splitlines() if line.startswith(f"| **{name}** "))
        assert f"**{verdict}**" in line
        assert f"{low:.3g} to {high:.3g}" in line


def test_the_published_verdicts_on_c7_follow_from_the_published_trials() -> None:
    docs = Path(__file__).parents[1] / "docs"
    kept = [json.loads(path.read_text()) for path in sorted((docs / "study" / "trials").glob("*.json"))]
    page = (docs / "study.md").read_text()
    for stage in ("early", "middle", "late"):
        units: dict[str, list[float]] = {}
        for c in kept:
            trial = c["trials"][stage]
            rivals = ("random:10", "eigenvectors:10/layer_matched", "eigenvectors:10/gradient_matched")
            least = min(trial["leads"][name] for name in (*rivals, "full in equal time"))
            units.setdefault(f"{c['task']}/{c['optimizer']}", []).append(least)
        means = np.array([np.mean(values) for values in units.values()])
        low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
        verdict = "supported" if low > 0.02 else "contradicted" if high < 0 else "no evidence"
        line = next(line for line in page.splitlines() if line.startswith(f"| **C7{stage[0]}** "))
        assert f"**{verdict}**" in line
        assert f"{low:.3g} to {high:.3g}" in line


def test_the_expected_words(found: list[dict[str, object]]) -> None:
    board = {row["claim"]: row["verdict"] for row in scoreboard(found)["claims"]}
    assert board == {
        "C1a": "supported", "C1b": "contradicted", "C2a": "no evidence", "C2b": "supported", "C3": "supported",
        "C3g": "no evidence", "C4": "supported", "C5": "contradicted", "C6": "contradicted",
        "C7e": "no evidence", "C7m": "no evidence", "C7l": "no evidence",
    }  # fmt: skip


def test_c7_is_judged_by_cells_of_its_own(found: list[dict[str, object]]) -> None:
    runs = [tried(task, optimizer, seed) for task in TASKS for optimizer in ("sgd", "adamw") for seed in range(2)]
    board = {row["claim"]: row for row in scoreboard(found, runs)["claims"]}
    words = {claim: board[claim]["verdict"] for claim in ("C7e", "C7m", "C7l")}
    assert words == {"C7e": "supported", "C7m": "contradicted", "C7l": "no evidence"}
    assert board["C7e"]["units"]["lstm sgd"] == [run["trials"]["early"]["least"] for run in runs[-4:-2]]  # type: ignore[index]
    assert board["C6"]["verdict"] == "contradicted"


def test_the_trials_of_a_real_cell_in_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(study.TRAININGS, "tabular", Training(study.TRAININGS["tabular"].make, 330, 32, {"sgd": 0.02}))
    monkeypatch.setattr("thalweg.study.productive.STEPS", 18)
    monkeypatch.setattr("thalweg.study.productive.STAGES", {"early": 0.2, "late": 1.0})
    found = run_trials("tabular", "sgd", 0, tmp_path / "run", quick=True)
    assert not (tmp_path / "run").exists()
    assert set(found["trials"]) == {"early", "late"}
    for stage in found["trials"].values():
        rivals = {name for name in stage["leads"] if "complement" not in name and name != "full"}
        assert stage["least"] == min(stage["leads"][name] for name in rivals)
        assert len(rivals) == 4
        assert set(stage["gains"]) >= {"full", "eigenvectors:10", "eigenvectors:10/complement"}
        assert stage["training_gains"]["full"] > 0


def test_the_published_products_are_those_of_the_cells() -> None:
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "study.md").read_text().splitlines()
    for unit in ("digits sgd", "resnet adamw", "transformer sgd"):
        task, optimizer = unit.split()
        kept = [json.loads(p.read_text()) for p in (docs / "study").glob(f"{task}-{optimizer}-*.json")]
        line = next(line for line in page if line.startswith(f"| {unit} |"))
        assert line.endswith(f"| {sum(cell['products'] for cell in kept):,} |")


def test_seeds_are_no_replication(found: list[dict[str, object]]) -> None:
    """Many seeds of two units are no evidence, however alike they are."""
    few = [cell("digits", optimizer, seed) for optimizer in ("sgd", "adamw") for seed in range(40)]
    assert {row["verdict"] for row in scoreboard(few)["claims"]} == {"no evidence"}
    doubled = scoreboard(found + found)["claims"]
    for row, once in zip(doubled, scoreboard(found)["claims"], strict=True):
        assert row["interval"] == pytest.approx(once["interval"])


def test_without_effects_claims_are_supported_at_their_level() -> None:
    """Effects that scatter about the threshold: one in forty at most, on average."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        made = [
            cell(task, optimizer, 0, depth_correlation=0.3 + generator.standard_normal())
            for task in TASKS
            for optimizer in ("sgd", "adamw")
        ]
        row = next(r for r in scoreboard(made)["claims"] if r["claim"] == "C6")
        hits += row["verdict"] == "supported"
    assert hits <= 13


def test_p_values_are_corrected_and_thresholds_are_those_of_the_decision(found: list[dict[str, object]]) -> None:
    rows = scoreboard(found)["claims"]
    assert all(row["p_holm"] >= row["p_value"] for row in rows)
    decisions = Path(__file__).parents[1] / "docs/decisions"
    pages = ("0011-thresholds-of-the-study.md", "0014-thresholds-of-c7.md")
    page = "\n".join((decisions / name).read_text() for name in pages)
    for claim in CLAIMS:
        line = next(line for line in page.splitlines() if line.startswith(f"| {claim.name} "))
        above, below = (part.strip() for part in line.split("|")[3:5])
        assert (float(above), float(below)) == (claim.supported, claim.contradicted)


def test_a_study_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str, int]] = []

    def fake(name: str, optimizer: str, seed: int, scratch: Path, quick: bool) -> dict[str, object]:
        if len(ran) == 3 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        ran.append((name, optimizer, seed))
        return cell(name, optimizer, seed)

    monkeypatch.setattr(study, "run_cell", fake)
    monkeypatch.setattr(study, "run_trials", lambda *cell: tried(*cell[:3]))
    with pytest.raises(KeyboardInterrupt):
        run_study(tmp_path / "out", quick=True)
    (tmp_path / "again").touch()
    said: list[str] = []
    board = run_study(tmp_path / "out", quick=True, say=said.append)
    assert len(ran) == len(set(ran)) == len(list(cells(quick=True))) == 8
    assert len(said) == 5
    assert len(board["trials"]) == 4
    assert board["cells"] == 8
    kept = json.loads((tmp_path / "out/quick.json").read_text())
    assert kept["claims"][0]["claim"] == "C1a"


def test_a_real_cell_in_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(study.TRAININGS, "tabular", Training(study.TRAININGS["tabular"].make, 330, 32, {"sgd": 0.02}))
    monkeypatch.setattr("thalweg.recording.pace.WAIT_GRACE", 1e6)
    found = study.run_cell("tabular", "sgd", 0, tmp_path / "run", quick=True)
    assert not (tmp_path / "run").exists()
    assert len(found["layer_shares"]) == len(found["layer_values"]) == 3
    assert 0 < found["weights"] < 1
    assert 0 < found["updates"] < 1
    assert found["drift_p"] >= 1 / 512
    assert scoreboard([found])["claims"][4]["verdict"] == "no evidence"


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no task 'digit'; the nearest are 'digits'"):
        run_study(tmp_path, tasks=["digit"])
