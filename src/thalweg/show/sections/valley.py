"""The shape of the valley: losses across it, on training and on held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thalweg.show import valley_plots as plots
from thalweg.show.messages import Words
from thalweg.show.numbers import count, number
from thalweg.show.sections.base import Key, Picture, Section, reading

MARKS = {"stiff": "line", "drift": "line", "random": "dash"}


def valley(analysis: Mapping[str, Any], words: Words) -> Section:
    """Cross-sections along the stiffest direction, the drift and a random one."""
    data = analysis["valley"]
    distances, curves = data["distances"], data["curves"]
    here = {part: _at_zero(curves["stiff"], part) for part in ("train", "held_out")}
    lead = [
        words(
            "valley.lead",
            reach=number(data["reach"]),
            here=number(here["train"]),
            stiff=number(_highest(curves["stiff"]["train"])),
            random=number(_highest(curves["random"]["train"])),
        )
    ]
    if here["held_out"] is not None:
        losses = curves["stiff"]["held_out"]
        best = min((loss, abs(distance)) for loss, distance in zip(losses, distances, strict=True) if loss is not None)
        key = "valley.held_out" if best[1] > 0 else "valley.held_out_here"
        values = {"least": number(best[0]), "away": number(best[1]), "here_held_out": number(here["held_out"])}
        lead.append(words(key, **values))
    parts = [part for part in ("train", "held_out") if curves["stiff"].get(part)]
    return Section(
        "valley",
        words("valley.title"),
        lead=tuple(lead),
        pictures=tuple(_panel(part, distances, curves, words) for part in parts),
        legend=tuple(
            Key(mark, plots.HUES[name], words.plain(f"valley.{name}")) for name, mark in MARKS.items() if name in curves
        ),
        reading=reading(words, "valley", points=count(len(distances))),
    )


def _panel(part: str, distances: Sequence[float], curves: Mapping[str, Any], words: Words) -> Picture:
    chosen = {name: curve[part] for name, curve in curves.items()}
    told = words.plain("trial.comma").join(
        f"{words.plain(f'valley.{name}')} {number(_highest(losses))}" for name, losses in chosen.items()
    )
    return Picture(
        f"valley-{part}",
        words.plain(f"outside.data.{part}"),
        words.plain("valley.alt", told=told),
        lambda axes: plots.cross_sections(axes, distances, chosen, words),
        left=66,
    )


def _highest(losses: Sequence[float | None]) -> float | None:
    return max((loss for loss in losses if loss is not None), default=None)


def _at_zero(curve: Mapping[str, Any], part: str) -> float | None:
    losses = curve.get(part)
    return None if not losses else losses[len(losses) // 2]
