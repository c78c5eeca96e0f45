"""What it cost, what it does not show, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thalweg.show.messages import Words
from thalweg.show.numbers import clean, count, number, size
from thalweg.show.sections.base import Section, final, grid


def cost(analysis: Mapping[str, Any], words: Words) -> Section:
    """Time, products and memory."""
    data = analysis["cost"]
    times = {part: value for part, value in (data.get("seconds") or {}).items() if value is not None}
    total, gradient = times.get("total"), data.get("gradient_seconds")
    known = {"total": words.duration(total), "products": count(data.get("products"))}
    if total and gradient:
        gradients = count(round(total / gradient))
        lead = [words("cost.lead", gradient=words.duration(gradient), gradients=gradients, **known)]
    else:
        lead = [words("cost.lead_short", **known)]
    if data.get("peak_memory_bytes"):
        lead.append(words("cost.memory", memory=size(data["peak_memory_bytes"])))
    rows = [(words.known("cost", part), words.duration(value)) for part, value in times.items()]
    return Section(
        "cost",
        words("cost.title"),
        lead=tuple(lead),
        grids=(grid(words, "cost.table", ["part", "seconds"], rows, folded=False),) if rows else (),
    )


def limits(analysis: Mapping[str, Any], words: Words) -> Section:
    """What the report does not show, with the figures that bound it."""
    problem, loss = analysis.get("problem") or {}, analysis.get("loss") or {}
    trial = analysis.get("trial") or {}
    tested = trial.get("stages")
    first = words("limits.tested", steps=count(trial["plan"]["steps"])) if tested else words("limits.trial")
    items = [first, words("limits.walk")]
    if problem.get("samples"):
        items.append(words("limits.sampling", samples=count(problem["samples"]), batches=count(problem.get("batches"))))
    if problem.get("mode") == "evaluation":
        items.append(words("limits.mode", mode=words.known("mode", "evaluation")))
    if final(analysis):
        items.append(words("limits.point"))
    if loss.get("held_out") is not None:
        items.append(words("limits.loss_both", train=number(loss.get("train")), held_out=number(loss["held_out"])))
    elif loss.get("train") is not None:
        items.append(words("limits.loss", train=number(loss["train"])))
    if loss.get("gradient_norm") is not None:
        items.append(words("limits.gradient", norm=number(loss["gradient_norm"])))
    return Section("limits", words("limits.title"), items=tuple(items))


def again(analysis: Mapping[str, Any], words: Words) -> Section:
    """The command and the settings."""
    settings = analysis.get("settings") or {}
    optimizer = ((analysis.get("run") or {}).get("optimizer") or {}).get("settings") or {}
    rows = [(clean(str(key)), _plain(value)) for key, value in {**settings, **optimizer}.items()]
    return Section(
        "again",
        words("again.title"),
        lead=(words("again.lead", seed=settings.get("seed", "–")),),
        code=clean(analysis["command"]),
        grids=(grid(words, "again.table", ["name", "value"], rows, leading=2),) if rows else (),
    )


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else clean(str(value))
