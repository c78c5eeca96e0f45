"""What a trial found: a verdict on each arm, the leads, the losses, and what comes next."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from thalweg.decision import judged_stage
from thalweg.show import trial_plots as plots
from thalweg.show.messages import Words
from thalweg.show.numbers import count, number, p_value, percent
from thalweg.show.sections.base import Grid, Key, Picture, Section, grid, name, reading, span

ROW, AROUND = 26, 64
"""Height of a row of leads, and of what stands around them, in SVG units."""

LABELS = 146
"""Room for the rivals' names."""


def trial(analysis: Mapping[str, Any], words: Words) -> Section:
    """The trial that the run folder holds, or how to begin one."""
    title, data = words("trial.title"), analysis.get("trial")
    if not data:
        command = plan_command(analysis)
        key = "trial.untested" if command else "trial.untested_short"
        return Section("trial", title, lead=(words(key),), code=command)
    plan = data["plan"]
    lead = [words("trial.design", **{key: count(plan[key]) for key in ("steps", "batch", "seeds")})]
    if data.get("step") is not None:
        lead.append(words("trial.started", step=count(data["step"]), **span(data.get("window"))))
    refresh = plan.get("refresh")
    lead.append(words("trial.refreshed", refresh=count(refresh)) if refresh else words("trial.kept"))
    judged = judged_stage(data)
    if judged is None:
        power = percent(data["next"]["power"])
        lead.append(words("trial.pilot_only", seeds=plan["seeds"], effect=percent(plan["minimum_effect"]), power=power))
        lead += _costs(data, words)
        return Section("trial", title, lead=tuple(lead), code=data.get("command") or "")
    lead += _costs(data, words)
    items = [Markup(" ").join(told(one, plan, judged["start_loss"], words)) for one in judged["verdicts"]]
    arms = [_leads(one, plan, judged["start_loss"], words, place) for place, one in enumerate(judged["verdicts"])]
    return Section(
        "trial",
        title,
        lead=tuple(lead),
        pictures=(*arms, _losses(judged, plan, words)),
        legend=(
            Key("disc", "ink", words.plain("trial.key.must")),
            Key("ring", "muted", words.plain("trial.key.beside")),
            Key("line", "eigenvectors", words.plain("trial.key.arm")),
            Key("dash", "ink", words.plain("trial.key.incumbent")),
            Key("line", "chance", words.plain("trial.key.control")),
        ),
        reading=reading(words, "trial", level=percent(1 - plan["level"])),
        grids=(_table(judged, plan, words),),
        items=tuple(items),
        code=data.get("command") or "",
    )


def plan_command(analysis: Mapping[str, Any]) -> str:
    """The command that plans a trial on this run, from the one that analysed it; "" where that is not known."""
    try:
        parts = shlex.split(str(analysis.get("command") or ""))
    except ValueError:
        return ""
    known = len(parts) > 2 and parts[:2] == ["thalweg", "analyse"] and not parts[2].startswith("-")
    if not known or "--task" not in parts:
        return ""
    kept = ["thalweg", "trial", "plan", parts[2]]
    for option, value in itertools.pairwise(parts):
        if option in ("--task", "--set"):
            kept += [option, value]
    return shlex.join(kept)


def told(one: Mapping[str, Any], plan: Mapping[str, Any], scale: float, words: Words) -> list[Markup]:
    """What is said of one arm."""
    arm = name(one["arm"])
    out = [_verdict(one, plan, scale, words, arm)]
    for c in one["comparisons"]:
        ahead = c["against"] == plan["complements"].get(one["arm"]) and c["effect"]["high"] < 0
        if ahead:
            values = {"low": -c["effect"]["high"] / scale, "high": -c["effect"]["low"] / scale, "lead": -c["share"]}
            out.append(words("trial.complement_ahead", arm=arm, **{k: percent(v) for k, v in values.items()}))
    if one["stopped"]:
        out.append(words("trial.stopped", arm=arm, seeds=one["seeds"]))
    if one["diverged"]:
        out.append(words("trial.diverged", arm=arm, count=one["diverged"], seeds=one["seeds"]))
    return out


def _verdict(one: Mapping[str, Any], plan: Mapping[str, Any], scale: float, words: Words, arm: Markup) -> Markup:
    must = [c for c in one["comparisons"] if must_win(c, plan)]
    if one["word"] == "invest" and plan["question"] == "as good":
        return words("trial.as_good", arm=arm, incumbent=name(plan["incumbent"]), saving=percent(one["saving"]))
    if one["word"] == "invest":
        least = max(must, key=lambda c: (c["effect"]["p_value"], -c["share"]))
        return words(
            "trial.invest",
            arm=arm,
            incumbent=name(plan["incumbent"]),
            against=rival(least, plan, words),
            lead=percent(least["share"]),
            **_ends(least["effect"], scale),
        )
    if one["word"] == "harmful":
        gain = one["gain"]
        ends = {"low": percent(-gain["high"] / scale), "high": percent(-gain["low"] / scale)}
        return words("trial.harmful", arm=arm, loss=percent(-gain["mean"] / scale), **ends)
    behind = Markup(words.plain("trial.comma")).join(
        dict.fromkeys(rival(c, plan, words) for c in must if not c["significant"])
    )
    if one["word"] == "guard":
        return words("trial.guard", arm=arm, stiffness=number(one["stiffness"]), behind=behind)
    return words("trial.none", arm=arm, behind=behind) if behind else words("trial.none_holm", arm=arm)


def must_win(c: Mapping[str, Any], plan: Mapping[str, Any]) -> bool:
    """Whether a comparison counts for the verdict."""
    timed = plan["question"] == "better"
    return bool(c["control"] or (c["against"] == plan["incumbent"] and c["equal_time"] == timed))


def rival(c: Mapping[str, Any], plan: Mapping[str, Any], words: Words) -> Markup:
    """The name of a rival in words."""
    whole = str(c["against"])
    control = whole.rpartition("/")[2] if "/" in whole else whole.partition(":")[0]
    known = words.known("trial.control", control)
    label = name(whole, 24) if known == control else Markup.escape(known)
    return words("trial.in_time", against=label) if c["equal_time"] else label


def _plain_rival(c: Mapping[str, Any], plan: Mapping[str, Any], words: Words) -> str:
    return str(rival(c, plan, words).striptags())


def _ends(effect: Mapping[str, Any], scale: float) -> dict[str, str]:
    return {"low": percent(effect["low"] / scale), "high": percent(effect["high"] / scale)}


def _costs(data: Mapping[str, Any], words: Words) -> list[Markup]:
    edges = [arm for arm, one in data["pilot"]["tuned"].items() if one["edge"] and arm in data["plan"]["arms"]]
    out = []
    if edges:
        out.append(words("trial.edge", arms=Markup(words.plain("trial.comma")).join(map(name, edges))))
    if data.get("doubles"):
        out.append(words("trial.doubles", share=percent(data["doubles"])))
    spent, following = data["spent"], data["next"]
    out.append(words("trial.cost", seconds=words.duration(spent["seconds"]), gradients=count(spent["gradients"])))
    if following["stage"] and following["go_on"]:
        out.append(words("trial.next", seconds=words.duration(following["seconds"])))
    else:
        out.append(words("trial.finished" if following["go_on"] else "trial.stop"))
    return out


def _leads(one: Mapping[str, Any], plan: Mapping[str, Any], scale: float, words: Words, place: int) -> Picture:
    rows = [
        {
            "label": _plain_rival(c, plan, words),
            "lead": c["share"],
            "low": c["effect"]["low"] / scale,
            "high": c["effect"]["high"] / scale,
            "must": must_win(c, plan),
        }
        for c in one["comparisons"]
    ]
    alternative = "; ".join(f"{row['label']} {percent(row['lead'])}" for row in rows)
    return Picture(
        f"trial-{place}",
        words.plain("trial.leads", arm=one["arm"]),
        words.plain("trial.leads_alt", told=alternative),
        lambda axes: plots.leads(axes, rows, words),
        height=AROUND + ROW * len(rows),
        left=LABELS,
    )


def _losses(judged: Mapping[str, Any], plan: Mapping[str, Any], words: Words) -> Picture:
    shown = [c for c in judged["curves"] if c["arm"] in (*plan["arms"], plan["incumbent"])]
    alternative = "; ".join(f"{c['arm']} {number(c['loss'][-1])}" for c in shown)
    return Picture(
        "trial-losses",
        words.plain("trial.losses"),
        words.plain("trial.losses_alt", start=number(judged["start_loss"]), told=alternative),
        lambda axes: plots.losses(axes, judged["curves"], plan["arms"], plan["incumbent"], words),
        left=66,
    )


def _table(judged: Mapping[str, Any], plan: Mapping[str, Any], words: Words) -> Grid:
    scale = judged["start_loss"]
    rows = [
        (
            str(one["arm"]),
            _plain_rival(c, plan, words),
            percent(c["share"]),
            *_ends(c["effect"], scale).values(),
            p_value(c["effect"]["p_value"]),
            words.plain("trial.yes") if must_win(c, plan) else "",
        )
        for one in judged["verdicts"]
        for c in one["comparisons"]
    ]
    return grid(words, "trial.table", ["arm", "against", "lead", "low", "high", "p", "must"], rows, leading=2)
