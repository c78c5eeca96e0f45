"""From measured overlaps to one verdict: does the movement agree with the curvature?

The threshold is fixed beforehand: level `LEVEL` after Holm's correction over every overlap of the analysis, and
against *both* nulls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thalweg.analysis.nulls import Null, holm
from thalweg.analysis.overlap import Overlap
from thalweg.recording.record import Window

LEVEL = 0.01
"""Level, after Holm's correction over everything measured, at which an agreement counts as measured."""


def agreement_row(source: str, window: Window, window_name: str, count: int, measured: Overlap) -> dict[str, Any]:
    """One measured agreement as plain values."""
    assert measured.layer_matched is not None
    nulls = {null.name: null_record(null) for null in (measured.uniform, measured.layer_matched)}
    return {
        "source": source,
        "window": list(window),
        "window_name": window_name,
        "components": count,
        "captured": measured.mean,
        "per_direction": measured.captured.tolist(),
        "nulls": nulls,
    }


def null_record(null: Null) -> dict[str, float]:
    """A null as plain values."""
    return {"expected": null.expected, "p_value": null.p_value, "log10_p": null.log10_p}


def correct(stages: list[dict[str, Any]]) -> None:
    """Holm's correction over every agreement of every stage, on the larger of its two p-values."""
    rows = [row for stage in stages for row in stage["agreement"]]
    larger = [10 ** max(null["log10_p"] for null in row["nulls"].values()) for row in rows]
    for row, corrected in zip(rows, holm(larger), strict=True):
        row["p_holm"] = corrected


def verdict(stage: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the last stage says about updates and curvature, with the fewest components that were measured.

    "agreement": above both nulls at `LEVEL` after correction; "mixed": above the uniform null only, so the two merely
    share their layers; "no agreement" otherwise.
    """
    stiffest = max(layers, key=lambda record: record["values"][0])
    holder = max(layers, key=lambda record: record["eigenvector_energy"])
    rows = [row for row in stage["agreement"] if row["window_name"] == "this stage"] or stage["agreement"]
    fewest = min((row["components"] for row in rows), default=0)
    here = [row for row in rows if row["components"] == fewest]
    chosen = next((row for row in here if row["source"] == "updates"), None)
    base = {
        "holds_layer": holder["layer"],
        "holds_share": holder["eigenvector_energy"],
        "stiffest_layer": stiffest["layer"],
        "level": LEVEL,
    }
    if chosen is None:
        return {"word": "not measured", **base}
    best = max(here, key=lambda row: row["captured"])
    nulls = chosen["nulls"]
    if chosen["p_holm"] < LEVEL:
        word = "agreement"
    elif nulls["uniform"]["p_value"] < LEVEL:
        word = "mixed"
    else:
        word = "no agreement"
    return {
        "word": word,
        "source": "updates",
        "window": chosen["window"],
        "components": chosen["components"],
        "captured": chosen["captured"],
        "uniform": nulls["uniform"]["expected"],
        "layer_matched": nulls["layer_matched"]["expected"],
        "p_value": chosen["p_holm"],
        "best_source": best["source"],
        "best_captured": best["captured"],
        **base,
    }
