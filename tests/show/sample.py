"""A realistic stored analysis, made of seeded noise: what the report is developed and tested against."""

from __future__ import annotations

from typing import Any

import numpy as np

LAYERS = [("1", 4160), ("3", 8256), ("5", 8320), ("7", 650)]
P = sum(size for _, size in LAYERS)


def analysis() -> dict[str, Any]:
    """The mapping that `thalweg analyse` stores as results/analysis.json."""
    rng = np.random.default_rng(7)
    stages = [
        _stage("early", 110, 0.34, rng),
        _stage("middle", 440, 0.47, rng),
        _stage("late", 770, 0.58, rng),
        _stage("final", 880, 0.66, rng),
    ]
    last = stages[-1]
    values = last["spectrum"]["values"]
    line = last["agreement"][0]
    return {
        "format": 1,
        "created": "2026-01-15T09:30:12+00:00",
        "thalweg": "0.1.0",
        "torch": "2.13.0",
        "command": "thalweg analyse runs/digits --task thalweg.tasks.digits:task --seed 0",
        "run": {
            "folder": "runs/digits",
            "model": "Sequential",
            "optimizer": {"class": "SGD", "settings": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}},
            "steps": [1, 880],
            "rows": 880,
            "every": 1,
            "parameters": P,
            "layers": len(LAYERS),
            "frozen": 0,
            "damaged": [],
            "gaps": [],
        },
        "settings": {"k": 10, "seed": 0, "tol": 1e-3, "certificate": "complete", "components": [10, 20, 50],
                     "draws": 199},
        "problem": {
            "samples": 1437, "batches": 12, "weight": 1437.0, "reduction": "mean", "mode": "evaluation",
            "parameters": P,
        },
        "held_out": {
            "curvature": [value * 3.1 for value in values], "values": [value * 4.7 for value in values],
            "subspace": 0.437, "subspace_by_chance": 0.00047, "subspace_by_layer": 0.00061, "samples": 360,
            "batches": 2,
        },
        "sharpness": {"raw": values[0], "filter": {"value": 61.3}, "entry": {"value": 4.83}},
        "robustness": {"rows": _noise(values[0])},
        "loss": {"train": 0.00412, "held_out": 0.0913, "gradient_norm": 0.0123},
        "stages": stages,
        "density": _density(values),
        "sampling": {
            "half_values": [value * 1.11 for value in values],
            "other_half": [value * (0.88 - 0.03 * i) for i, value in enumerate(values)],
            "subspace_overlap": 0.812,
            "samples": [719, 718],
            "seed": 0,
        },
        "components": {
            "updates": {"explained": _decay(50, 0.13, 0.6), "window": [660, 880]},
            "weights": {"explained": _decay(50, 0.74, 1.7), "window": [0, 880]},
            "gradients": {"explained": _decay(50, 0.09, 0.4), "window": [661, 880]},
            "random_walk": {"explained": [6 / np.pi**2 / n**2 for n in range(1, 51)], "updates": [0.012] * 50},
        },
        "path": {
            "steps": list(range(0, 881, 2)),
            "points": _run(rng),
            "explained": [0.742, 0.143],
            "random_walk": {"points": _walk(rng), "explained": [0.611, 0.149]},
        },
        "surface": _surface(),
        "valley": _valley(),
        "heat_map": {"rows": "eigenvectors", "columns": "updates", "window": [660, 880], "squared": _heat(rng)},
        "layers": [
            {
                "layer": layer, "depth": depth, "parameters": size, "values": [values[0] * share],
                "residuals": [values[0] * 2e-4], "share_of_net": share, "update_energy": update,
                "weight_energy": weight, "eigenvector_energy": eigen, "gain": 2e-4 / (depth + 1), "gain_low": 1e-4,
                "gain_high": 3e-4, "fine_tuning": depth + 1, "fine_tuning_low": 1.0, "fine_tuning_high": 3.0,
                "trace": 31.2, "trace_error": 1.1, "noise_cost": 0.4, "noise_cost_low": 0.31, "noise_cost_high": 0.52,
                "compression": 4 - depth, "compression_low": 4.0 - depth, "compression_high": 4.0 - depth,
                "drift_share": 0.25,
            }
            for depth, ((layer, size), share, update, weight, eigen) in enumerate(
                zip(LAYERS, [0.41, 0.23, 0.31, 0.66], [0.31, 0.25, 0.3, 0.14], [0.29, 0.36, 0.31, 0.04],
                    [0.24, 0.14, 0.2, 0.42], strict=True)
            )
        ],
        "drift": drift(),
        "directions": directions(),
        "singular": [
            {"layer": layer, "parameter": f"{layer}.weight", "block": "", "index": index, "value": 3.1 - index,
             "above": index == 0, "curvature": 0.2 / (index + 1), "control": 0.01, "controls": 10,
             "control_error": 0.004, "ratio": 20.0 / (index + 1), "rank": 1 / 11, "captured": None,
             "captured_by_chance": None}
            for layer, _ in LAYERS for index in range(3)
        ],
        "alignment": {
            "directions": [
                {"index": index, "value": value, "alignment": 0.002 / (index + 1), "by_chance": 1 / P,
                 "by_layer": 2 / P}
                for index, value in enumerate(values)
            ],
            "rank_correlation": 0.41, "p_value": 0.23, "captured": 0.0061,
            "nulls": {
                "uniform": {"expected": 10 / P, "p_value": 1e-9, "log10_p": -9.0},
                "layer_matched": {"expected": 20 / P, "p_value": 0.004, "log10_p": -2.4},
            },
        },
        "approximation": {
            source: [
                {"k": k, "trace_share": 0.2 * k / 20, "top_share": high * k / 20, "top_value": high,
                 "fresh_share": high, "fresh_share_diagonal": high - 0.1, "products": k, "products_saved": 74 - k}
                for k in (1, 5, 20)
            ]
            for source, high in (("updates", 0.9), ("weights", 0.6), ("gradients", 0.95))
        },
        "cost": {
            "seconds": {"spectrum": 11.2, "layers": 3.4, "trajectory": 0.81, "sampling": 2.9, "total": 18.7},
            "products": 1234,
            "gradient_seconds": 0.0072,
            "peak_memory_bytes": 612_000_000,
        },
        "verdict": {
            "word": "agreement", "source": "updates", "components": 10, "captured": line["captured"],
            "uniform": line["nulls"]["uniform"]["expected"],
            "layer_matched": line["nulls"]["layer_matched"]["expected"],
            "p_value": line["nulls"]["layer_matched"]["p_value"], "holds_layer": "7", "holds_share": 0.42,
            "best_source": "gradients", "best_captured": last["agreement"][12]["captured"], "stiffest_layer": "7",
        },
    }  # fmt: skip


def _density(values: list[float]) -> dict[str, Any]:
    """A bulk around zero, and the eigenvalues apart from it."""
    width, grid = values[0] / 20, np.linspace(-0.3 * values[0], 1.3 * values[0], 241)
    lone = sum(np.exp(-(((grid - value) / width) ** 2) / 2) for value in values)
    near = (P - len(values)) * np.exp(-((grid / width) ** 2) / 2) + lone
    levels = np.geomspace(values[0] / 300, values[0] * 0.999, 61)
    above = np.array([(np.array(values) > level).sum() for level in levels]) + 200 * np.exp(-levels / levels[9])
    below = np.maximum(0.0, 60 * (1 - levels / levels[20]))
    return {
        "grid": grid.tolist(), "near": near.tolist(), "near_error": (0.1 * near).tolist(), "width": width,
        "levels": levels.tolist(), "above": _bounded(above), "below": _bounded(below), "stiff": 12,
        "clearly_negative": True, "smallest": -float(levels[20]), "largest": values[0], "probes": 3, "steps": 32,
        "matvecs": 96,
    }  # fmt: skip


def _bounded(counts: Any) -> dict[str, list[float]]:
    return {"count": counts.tolist(), "low": (0.8 * counts).tolist(), "high": (1.2 * counts + 1).tolist()}


def drift() -> dict[str, Any]:
    """A drift whose speed falls as a power law."""
    clock = [460 + 23 * (i + 0.5) for i in range(20)]
    middle = sum(clock) / 20
    ticks = [clock[0], middle, clock[-1]]
    values = [(tick / middle) ** -1.2 * (1 + 0.05 * (-1) ** i) for i, tick in enumerate(clock)]
    losses = [
        {"steps": steps, "distance": 0.002 * steps,
         "train": 0.00412 * 0.9995**steps, "held_out": 0.0913 * 0.9999**steps,
         "train_control": 0.00412 + 1e-7 * steps**2, "held_out_control": 0.0913 + 1e-7 * steps**2}
        for steps in (0, 1, 10, 100, 1000)
    ]  # fmt: skip
    scan = [
        {"start": 147 * i, "stop": 147 * (i + 1), "p_value": 1 / 128, "p_holm": 6 / 128, "share": 0.02 * i,
         "cosine": 0.2 * i, "lasting": i > 1}
        for i in range(6)
    ]  # fmt: skip
    return {
        "found": True, "p_value": 1 / 512, "level": 0.05, "cosine": 0.96, "share": 0.12, "share_error": 0.01,
        "persistence": {"cosine": 0.88, "corrected": 0.94, "interval": [0.9, 0.98]}, "speed": 0.002,
        "model": "power law", "half_life": None, "half_life_interval": None, "half_life_word": "law",
        "reason": "the speeds follow a power law better than an exponential, which has no half-life",
        "distance_left": None, "curvature": 0.02, "curvature_held_out": 0.03, "slope": -0.01, "rate": 0.001,
        "rate_expected": 0.02, "optimizer_is_adaptive": False, "loss_gain_left": None, "p_value_without_decay": None,
        "ahead": losses, "scan": scan, "in_stiff": 0.0003, "in_stiff_by_chance": 10 / P,
        "speeds": {
            "clock": clock, "values": values, "ticks": ticks,
            "fits": [
                {"name": "constant", "rate": 0.0, "interval": [0.0, 0.0], "amplitude": 1.0, "aicc": -31.0,
                 "curve": [1.0, 1.0, 1.0]},
                {"name": "exponential", "rate": 0.0017, "interval": [0.0015, 0.0019], "amplitude": 0.98, "aicc": -70.1,
                 "curve": [1.4, 0.98, 0.7]},
                {"name": "power law", "rate": 1.2, "interval": [1.1, 1.3], "amplitude": 1.0, "aicc": -82.4,
                 "curve": [1.5, 1.0, 0.71]},
            ],
        },
        "layers": [
            {"layer": layer, "p_value": 0.01, "p_holm": 0.04, "share": 0.1, "share_error": 0.01, "found": True}
            for layer, _ in LAYERS
        ],
        "window": [460, 920], "layer": None, "rows": 460, "rows_left_out": 0, "blocks": 10, "block_length": 45,
        "rows_summed": 1, "momentum": 0.9, "autoregression": [], "correlation_left": 0.01, "metric_share": 0.2,
    }  # fmt: skip


def directions() -> list[dict[str, Any]]:
    """A few rows of the table of directions."""
    kinds = [("gradient", 0, ""), ("drift", 0, "drifting"), ("Hessian eigenvectors", 0, "stiff"),
             ("PCA of updates", 3, ""), ("PCA of weights", 9, "sloppy")]  # fmt: skip
    return [
        {"label": label, "index": index, "curvature": 3.1 / (place + 1), "slope": -0.004, "gradient_share": 0.2,
         "noise": 0.002, "alignment": 0.01, "alignment_by_chance": 1 / P, "gain": 1e-5 / (place + 1),
         "bounded": place == 1, "curvature_held_out": 5.0, "gain_held_out": -2e-6, "update_share": 0.02,
         "layers": "1 60%, 3 24%", "words": words, "productive": "untested"}
        for place, (label, index, words) in enumerate(kinds)
    ]  # fmt: skip


def _stage(name: str, step: int, level: float, rng: np.random.Generator) -> dict[str, Any]:
    top = 14.2 * np.exp(-(step / 600))
    values = [float(top * np.exp(-0.21 * i) * (1 + 0.03 * rng.random())) for i in range(10)]
    rows = []
    for source, base in (("updates", level), ("weights", level * 0.55), ("gradients", level + 0.09)):
        for window_name, shift in (("this stage", 0.0), ("whole run", -0.07)):
            window = [step - 110, step] if window_name == "this stage" else [0, 880]
            for m, more in ((10, 0.0), (20, 0.45), (50, 0.86)):
                share = base + shift + (1 - base) * more
                rows.append(
                    {
                        "source": source,
                        "window": window,
                        "window_name": window_name,
                        "components": m,
                        "captured": share,
                        "per_direction": [share] * 10,
                        "nulls": {
                            "uniform": {"expected": m / P, "p_value": 0.0, "log10_p": -412.0 * share},
                            "layer_matched": {"expected": 3.1 * m / P, "p_value": 0.005, "log10_p": -2.301},
                        },
                        "p_holm": 0.036,
                    }
                )
    spectrum = {
        "values": values,
        "residuals": [value * 3e-4 for value in values],
        "converged": [True] * 9 + [name != "early"],
        "gaps": [0.2] * 10,
        "angles": [0.004] * 10,
        "certificate": "complete",
        "matvecs": 74,
        "missed_and_found": 0,
        "complement_searched": True,
    }
    return {"name": name, "step": step, "window": [step - 110, step], "exact": name != "middle",
            "loss": 0.4 / step, "spectrum": spectrum, "agreement": rows,
            "tracking": {"persistence": None if name == "early" else 0.31 + step / 2000, "threshold": 38.0,
                         "of_threshold": values[0] / 38, "participation": 0.0123, "layer": "1",
                         "layer_share": 0.61}}  # fmt: skip


def _decay(count: int, first: float, rate: float) -> list[float]:
    shape = np.array([n**-rate * np.exp(-0.03 * n) for n in range(1, count + 1)])
    shares = np.concatenate([[first], shape[1:] / shape[1:].sum() * (0.97 - first)])
    return [float(share) for share in shares]


def _noise(largest: float) -> list[dict[str, Any]]:
    return [
        {
            "noise": noise, "level": level, "train": 0.00412 * (1 + rise), "train_error": error, "held_out": 0.0913 * (1
            + rise / 2), "held_out_error": error, "largest": largest * (4.7 + rise), "matvecs": 11,
        }
        for noise, level, rise, error in (
            ("none", 0.0, 0.0, None), ("inputs", 0.1, 0.2, 1e-4), ("inputs", 0.3, 2.1, 2e-3),
            ("labels", 0.1, 9.3, 3e-2), ("labels", 0.3, 27.0, 5e-2),
        )
    ]  # fmt: skip


def _run(rng: np.random.Generator) -> list[list[float]]:
    t = np.linspace(0, 1, 441)
    x = 6 * (1 - np.exp(-3 * t)) - 4
    y = 1.8 * np.sin(2.6 * t) - 1.2 * t
    noise = np.cumsum(rng.normal(size=(441, 2)), axis=0) * 0.006
    return [[float(a), float(b)] for a, b in np.stack([x, y], axis=1) + noise]


def _walk(rng: np.random.Generator) -> list[list[float]]:
    t = np.linspace(0, 1, 441)
    noise = np.cumsum(rng.normal(size=(441, 2)), axis=0) * 0.004
    points = np.stack([4.1 * np.cos(np.pi * t), 2 * np.cos(2 * np.pi * t)], axis=1) + noise
    return [[float(a), float(b)] for a, b in points]


def _heat(rng: np.random.Generator) -> list[list[float]]:
    rows = []
    for i in range(10):
        weight = rng.gamma(0.35, size=50) * np.exp(-np.abs(np.arange(50) - 1.3 * i) / 6)
        rows.append([float(value) for value in weight / weight.sum() * (0.9 - 0.025 * i)])
    return rows


def _surface() -> dict[str, Any]:
    """A tilted bowl under the path."""
    x, y = np.linspace(-6, 30, 9), np.linspace(-12, 18, 9)
    losses = 0.004 + 0.002 * ((x[None] - 22) ** 2 + 3 * (y[:, None] - 2) ** 2)
    return {
        "x": x.tolist(), "y": y.tolist(), "losses": losses.tolist(), "least": float(losses.min()),
        "most": float(losses.max()),
    }  # fmt: skip


def _valley() -> dict[str, Any]:
    """Walls, a floor that slopes, and a random direction; the held-out walls stand elsewhere."""
    distances = [0.05 * i for i in range(-10, 11)]
    bends = {"stiff": (1.9, 0.0), "random": (0.0001, 0.0), "drift": (0.0005, -0.002)}
    curves = {
        name: {
            "train": [0.0041 + bend * d**2 / 2 + slope * d for d in distances],
            "held_out": [0.0913 + 1.7 * bend * (d - 0.1) ** 2 / 2 - slope * d for d in distances],
        }
        for name, (bend, slope) in bends.items()
    }
    return {"distances": distances, "reach": 0.5, "curves": curves}


def trial() -> dict[str, Any]:
    """What `thalweg trial` stores as results/trial.json: an arm of each verdict."""
    arms = {
        "updates:10": ("invest", [0.08, 0.07, 0.05, 0.021, 0.03], 410.0),
        "eigenvectors:10": ("guard", [0.01, 0.012, -0.004, -0.11, -0.06], 599.0),
        "drift": ("harmful", [-0.2, -0.19, -0.3, -0.33, -0.4], 5.0),
        "weights:10": ("no evidence", [0.002, -0.001, 0.003, -0.004, -0.01], 1.2),
    }
    controls = {arm: ("random:10", f"{arm}/layer_matched", f"{arm}/gradient_matched") for arm in arms}
    complements = {arm: f"{arm}/complement" for arm in arms}
    curves = [
        {"arm": name, "steps": [0, 100, 200], "loss": [0.11, 0.11 - depth, 0.11 - 1.5 * depth], "error": None,
         "old": [], "seconds": 0.2, "factor": 1.0, "age": 200}
        for name, depth in [("full", 0.02), *((arm, 0.005 * i) for i, arm in enumerate(arms)), ("random:10", 0.01)]
    ]  # fmt: skip
    return {
        "format": 1,
        "hash": "0123456789abcdef",
        "question": "Does it pay?",
        "command": "thalweg trial runs/digits --task thalweg.tasks.digits:digits_task --yes",
        "doubles": 0.004,
        "step": 879,
        "window": [587, 880],
        "stage": "confirm",
        "plan": {
            "arms": list(arms), "controls": controls, "complements": complements, "incumbent": "full",
            "question": "better", "seeds": 9, "steps": 200, "batch": 64, "minimum_effect": 0.02, "level": 0.05,
        },
        "about": {arm: {"layers": None, "directions": 10, "label": arm} for arm in arms},
        "pilot": {
            "tuned": {arm: {"factor": 1.0, "edge": arm == "drift", "tried": []} for arm in arms},
            "arms": [{"arm": arm, "power": 0.86 + 0.01 * i} for i, arm in enumerate(arms)],
        },
        "stages": {
            "confirm": {
                "start_loss": 0.11,
                "curves": curves,
                "verdicts": [
                    _tried(arm, word, leads, stiffness, controls[arm], complements[arm])
                    for arm, (word, leads, stiffness) in arms.items()
                ],
            }
        },
        "next": {"stage": "full", "go_on": True, "seconds": 95.0, "reason": "confirmed", "power": 0.4},
        "spent": {"seconds": 154.0, "gradients": 231_000},
    }  # fmt: skip


def _tried(
    arm: str, word: str, leads: list[float], stiffness: float, controls: tuple[str, ...], complement: str
) -> dict[str, Any]:
    rivals = [*controls, complement, "full", "full"]
    comparisons = []
    for place, (rival, lead) in enumerate(zip(rivals, [*leads, leads[-1]], strict=True)):
        effect = {"mean": 0.11 * lead, "low": 0.11 * (lead - 0.02), "high": 0.11 * (lead + 0.02),
                  "p_value": 0.004 if abs(lead) > 0.02 else 0.3, "deviation": 0.003, "count": 9}  # fmt: skip
        comparisons.append(
            {"against": rival, "effect": effect, "share": lead, "significant": lead > 0.02, "equal_time": place == 5,
             "control": rival in controls}
        )  # fmt: skip
    gain = {"mean": -0.04, "low": -0.05, "high": -0.03, "p_value": 0.004, "deviation": 0.003, "count": 9}
    return {
        "arm": arm, "word": word, "special": word == "invest", "worth_it": word == "invest", "comparisons": comparisons,
        "gain": gain, "p_value": 0.004, "p_holm": 0.016, "saving": -0.5, "stiffness": stiffness,
        "stiff_p_value": 0.001, "seeds": 5 if word == "no evidence" else 9, "stopped": word == "no evidence",
        "diverged": 2 if word == "harmful" else 0, "change": "",
    }  # fmt: skip
