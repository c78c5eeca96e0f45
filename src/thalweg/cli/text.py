"""What a finished command says in a terminal."""

from __future__ import annotations

from typing import Any

from thalweg.show.trial_text import verdict_line
from thalweg.tables import Table

SHOWN = 8
"""Directions in a summary."""


def summary(result: dict[str, Any]) -> str:
    """A few lines of text about an analysis: the spectrum's top, the agreement table, the layers, the verdict."""
    last = result["stages"][-1]
    rows = [
        {
            "source": row["source"],
            "steps": f"{row['window'][0]}–{row['window'][1]}",
            "components": row["components"],
            "captured": row["captured"],
            "by chance": row["nulls"]["uniform"]["expected"],
            "layer-matched": row["nulls"]["layer_matched"]["expected"],
        }
        for row in last["agreement"]
    ]
    layers = [
        {"layer": r["layer"], "depth": r["depth"], "parameters": r["parameters"], "λ₁": r["values"][0],
         "of the net's": r["share_of_net"], "update energy": r["update_energy"]}
        for r in result["layers"]
    ]  # fmt: skip
    orders = [
        {"layer": r["layer"], "gain of its best step": r["gain"], "to tune": _order(r, "fine_tuning"),
         "cost of noise": r["noise_cost"], "to compress": _order(r, "compression")}
        for r in result["layers"] if "compression" in r
    ]  # fmt: skip
    best = [
        {"direction": _named(r), "curvature": r["curvature"], "predicted gain": r["gain"],
         "held-out": r["gain_held_out"], "layers": r["layers"], "words": r["words"]}
        for r in result.get("directions", ())[:SHOWN]
    ]  # fmt: skip
    drift = result.get("drift")
    values = ", ".join(f"{value:.4g}" for value in last["spectrum"]["values"])
    return "\n".join(
        [
            f"top eigenvalues after step {last['step']} ({last['spectrum']['certificate']}): {values}",
            "",
            "share of that eigenspace in the principal components of the recorded",
            str(Table.of(rows)),
            "",
            str(Table.of(layers)),
            "",
            str(Table.of(orders)),
            "",
            f"largest predicted gains of one step, of {len(result.get('directions', ()))} directions",
            str(Table.of(best)),
            "",
            drift_text(drift) if drift else "drift: not measured by the version that analysed this",
            f"updates and curvature: {result['verdict']['word']}; {verdict_line(result.get('trial'))}",
            f"{result['cost']['products']} products, {result['cost']['seconds']['total']:.1f} s",
        ]
    )


def scoreboard_text(board: dict[str, Any]) -> str:
    """The verdicts as a table."""
    rows = [
        {"claim": row["claim"], "verdict": row["verdict"], "mean": row["mean"],
         "95 % interval": "–" if row["interval"] is None else "{:.3g} to {:.3g}".format(*row["interval"]),
         "supported above": row["supported_above"], "p, Holm": row["p_holm"], "units": len(row["units"]),
         "says": row["says"]}
        for row in board["claims"]
    ]  # fmt: skip
    cost = f"{board['cells']} cells, {board['products']:,} products, {board['seconds'] / 60:.1f} minutes of analysis"
    return f"{Table.of(rows)}\n\n{cost}"


def drift_text(drift: dict[str, Any]) -> str:
    """One line about the drift."""
    if "found" not in drift:
        return f"drift: not tested ({drift['reason']})"
    where = f"steps {drift['window'][0]} to {drift['window'][1] - 1}, p {drift['p_value']:.3g}"
    if not drift["found"]:
        return f"drift: no evidence ({where})"
    half = drift["half_life"]
    pace = f"half-life {half:.4g} steps" if half is not None else drift["reason"]
    return f"drift: found ({where}), {drift['share']:.0%} of the updates' energy; {drift['model']}: {pace}"


def _named(record: dict[str, Any]) -> str:
    """A direction's name; the drift and the gradient are one of their kind."""
    return record["label"] if record["label"] in ("drift", "gradient") else f"{record['label']} {record['index'] + 1}"


def _order(record: dict[str, Any], name: str) -> str:
    """A rank with its interval."""
    low, high = record[f"{name}_low"], record[f"{name}_high"]
    return str(record[name]) if low is None or low == high else f"{record[name]} ({low:.0f} to {high:.0f})"


def forgetting_text(board: dict[str, Any]) -> str:
    """The board of `thalweg forget`: for each stream a line for each method, the best first."""
    lines = []
    for kind, rows in board["streams"].items():
        heads = "accuracy, backward transfer, learning; memory; time of a step"
        lines.append(f"{kind}, {len(board['seeds'])} seeds: {heads}")
        plain = next((row["step_seconds"] for row in rows if row["method"] == "none"), None)
        for row in sorted(rows, key=lambda row: -row["accuracy"]):
            figures = " ".join(
                f"{row[key]:+.3f}±{row[f'{key}_half']:.3f}" for key in ("accuracy", "backward", "learning")
            )
            slower = f"{row['step_seconds'] / plain:.2f}x" if plain else f"{1000 * row['step_seconds']:.2f} ms"
            lines.append(f"  {row['method']:<14} {figures}  {row['nbytes'] / 2**20:6.2f} MiB  {slower}")
        for lead in board["leads"][kind]:
            told = f"{lead['lead']:+.3f}±{lead['half']:.3f}"
            lines.append(f"  {lead['own']} over {lead['rival']}, seed by seed: {told}, {lead['word']}")
    return "\n".join(lines)
