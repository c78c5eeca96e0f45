"""What the tools for run folders print: inspection, export and import in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thalweg.memory import in_bytes
from thalweg.tables import Table


def inspection_text(about: Mapping[str, Any]) -> str:
    """What `inspect_run` found as lines of text, in which no stored name can steer a terminal."""
    space, t, size = about["space"], about["trajectory"], about["bytes"]
    state = about["state"]
    ended = state.get("reason") or f"process {state.get('process')}"
    steps = "no step" if t["first_step"] is None else f"steps {t['first_step']} to {t['last_step']}"
    lines = [
        f"run         {about['folder']}, {state['word']} ({ended}), begun {about['created']}",
        f"model       {about['model']}, {space['parameters']:,} parameters in {space['layers']} layers"
        f" ({space['frozen']} frozen, {space['tied']} tied), {space['dtype']}",
        f"optimizer   {about['optimizer']['class']}, {len(about['optimizer']['groups'])} groups",
        f"trajectory  {t['rows']:,} rows of {t['every']} steps, {steps}, {t['segments']} segments",
        f"kept        {_kept(t)}, weights after {t['steps_with_weights']:,} steps",
        *(f"lost        {sentence}" for sentence in t["lost"]),
        f"disk        {in_bytes(size['folder'])}, of which segments {in_bytes(size['segments'])}",
    ]
    if about["results"]:
        lines.append(f"results     {', '.join(about['results'])}")
    if about["scalars"]:
        lines += ["", *str(Table.of([{**row, "name": shown(row["name"])} for row in about["scalars"]])).splitlines()]
    return "\n".join([shown(line) for line in lines] + ["", *(shown(line) for line in about["health"])])


def _kept(t: Mapping[str, Any]) -> str:
    form = t["keep"]["form"]
    return {"exact": "every update, bit for bit", "bfloat16": "updates in bfloat16"}.get(
        form, f"sketches of at most {t['keep'].get('width')} numbers a layer, and sums"
    )


def shown(text: object) -> str:
    r"""A text with every character that a terminal would act on written as an escape: `\x1b`, `\u202e`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def export_summary(result: Mapping[str, Any]) -> str:
    """What `export` wrote, in a line or two."""
    lines = [f"{result['to']}: {result['out']}, {in_bytes(result['bytes'])}"]
    if "steps" in result:
        lines.append(f"after steps {few(result['steps'])}; load with {result['load']}")
    if result.get("frozen_left_out"):
        lines.append(f"without what was frozen and not recorded: {few(result['frozen_left_out'])}")
    return "\n".join(map(shown, lines))


def import_summary(result: Mapping[str, Any]) -> str:
    """What `import_checkpoints` made, and what it took for what."""
    lines = [
        f"run: {result['run']}, {result['rows']} rows between steps {result['steps'][0]} and {result['steps'][-1]}, "
        f"{result['parameters']:,} parameters"
    ]
    if result["parameters_by"] == "names":
        lines.append("parameters were told from buffers by their names; --model TASK does so by the network")
    if result["kept_as_buffers"]:
        lines.append(f"taken for buffers: {few(result['kept_as_buffers'])}")
    if result["left_out"]:
        lines.append(f"left out: {few(result['left_out'])}")
    if result["tied"]:
        lines.append(f"tied: {few([' = '.join(pair) for pair in result['tied']])}")
    if result["not_finite"]:
        lines.append(f"NaN or infinity in {few(list(result['not_finite']))}; kept as it is")
    return "\n".join(map(shown, lines))


def few(items: Sequence[Any], most: int = 6) -> str:
    """The first few of several things, and how many more there are."""
    rest = len(items) - most
    return ", ".join(map(str, items[:most])) + (f" and {rest} more" if rest > 0 else "")
