"""What a trial says in a terminal: the plan and its pilot, then the verdicts and what comes next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thalweg.show.folders import shown
from thalweg.tables import Table


def plan_text(data: Mapping[str, Any]) -> str:
    """The plan, what the pilot saw, and what going on would cost."""
    plan, following = data["plan"], data["next"]
    arms = [
        {
            "arm": one["arm"],
            "step size": f"{data['pilot']['tuned'][one['arm']]['factor']:.3g} × the task's",
            "least lead": percent(min(one["leads"].values())),
            "scatter": percent(max(one["deviations"].values())),
            "power": percent(one["power"]),
            f"seeds for {plan['wanted_power']:.0%}": one["seeds_needed"] or "over 1,000",
        }
        for one in data["pilot"]["arms"]
    ]
    lines = [
        data["question"],
        f"plan {data['hash']}: {plan['seeds']} fresh seeds, {plan['steps']} steps of {plan['batch']} samples, "
        f"{plan['optimizer']}, state {plan['state']}, basis {_basis(plan)}",
        f"against: {', '.join(dict.fromkeys(c for arm in plan['arms'] for c in plan['controls'][arm]))}; "
        f"incumbent {plan['incumbent']}",
        f"smallest effect worth having: {plan['minimum_effect']:.1%} of the start's held-out loss; level "
        f"{plan['level']:g} for all arms together; an arm whose chance falls below {plan['futility']:.0%} half way is "
        "stopped",
        "",
        str(Table.of(arms)),
        "",
        _costs(following, plan),
    ]
    return "\n".join(map(shown, "\n".join(lines).splitlines()))


def trial_text(data: Mapping[str, Any]) -> str:
    """The verdicts of the last stage and what comes next; the plan alone after a pilot."""
    judged = data["stages"].get(data["stage"])
    if judged is None:
        return plan_text(data)
    scale = judged["start_loss"]
    incumbent, timed = data["plan"]["incumbent"], data["plan"]["question"] == "better"
    rows = [
        {
            "arm": one["arm"],
            "against": c["against"] + (" (in equal time)" if c["equal_time"] else ""),
            "lead": percent(c["effect"]["mean"] / scale),
            "95 %" if data["plan"]["level"] == 0.05 else "interval": interval(c["effect"], scale),
            "p": f"{c['effect']['p_value']:.2g}",
            "must win": "yes" if c["control"] or (c["against"] == incumbent and c["equal_time"] == timed) else "",
        }
        for one in judged["verdicts"]
        for c in one["comparisons"]
    ]
    lines = [data["question"], f"plan {data['hash']}, stage {data['stage']}", "", str(Table.of(rows)), ""]
    for one in judged["verdicts"]:
        lines.append(f"{one['arm']}: {one['word']} ({_why(one)})")
        lines.append(f"    {one['change']}")
    spent, following = data["spent"], data["next"]
    lines.append("")
    lines.append(f"spent: {spent['seconds']:.0f} s, {spent['gradients']:,} gradients")
    if following["stage"] is None:
        lines.append(f"do not go on: {following['reason']}" if not following["go_on"] else "all stages are done")
    else:
        lines.append(f"go on with --stage {following['stage']}, about {following['seconds']:.0f} s")
    return "\n".join(map(shown, "\n".join(lines).splitlines()))


def verdict_line(data: Mapping[str, Any] | None) -> str:
    """What a trial decided, in half a line."""
    judged = (data or {}).get("stages", {}).get((data or {}).get("stage"))
    if not judged:
        return "whether working along them pays is untested"
    words = ", ".join(f"{one['arm']} {one['word']}" for one in judged["verdicts"])
    return f"a trial on {max(one['seeds'] for one in judged['verdicts'])} seeds says: {words}"


def percent(share: float | None) -> str:
    """A share of the start's loss."""
    return "–" if share is None else f"{share:.2%}"


def interval(effect: Mapping[str, Any], scale: float) -> str:
    """Both ends as shares of the start's loss."""
    return f"{effect['low'] / scale:.2%} to {effect['high'] / scale:.2%}"


def _why(one: Mapping[str, Any]) -> str:
    parts = [
        "beats every control" if one["special"] else "not better than every control",
        "worth it" if one["worth_it"] else "not worth it",
        f"p {one['p_holm']:.2g} after correction",
        f"{one['saving']:.0%} less time" if one["saving"] >= 0 else f"{-one['saving']:.0%} more time",
    ]
    if one["stiffness"] is not None:
        parts.append(f"{one['stiffness']:.3g} times as curved as layer-matched directions")
    if one["diverged"]:
        parts.append(f"diverged in {one['diverged']} of {one['seeds']} seeds")
    if one["stopped"]:
        parts.append(f"stopped after {one['seeds']} seeds")
    return "; ".join(parts)


def _basis(plan: Mapping[str, Any]) -> str:
    return "kept" if plan["refresh"] is None else f"found again every {plan['refresh']} steps"


def _costs(following: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    parts = [f"confirming with {plan['seeds']} seeds takes about {following['seconds']:.0f} s"]
    if following["seeds_needed"] is None:
        parts.append("no thousand seeds would find so small an effect in all arms")
    elif following["seeds_needed"] > plan["seeds"]:
        parts.append(
            f"a power of {plan['wanted_power']:.0%} needs {following['seeds_needed']} seeds, about "
            f"{following['seconds_needed']:.0f} s"
        )
    if not following["affordable"]:
        parts.append(f"more than the budget of {following['budget']:.0f} s, so the trial ends here")
    else:
        parts.append("worth going on" if following["go_on"] else f"not worth going on: {following['reason']}")
    return "; ".join(parts)
