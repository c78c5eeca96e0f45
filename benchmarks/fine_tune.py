"""A pretrained net on new data: which layers to train, and which to compress, by priority and by other orders.

python -m benchmarks.fine_tune [--part layers compression] [--seeds 8] [--quick]

The net is that of `digit-recognizer-py` (`tests/models/requirements.txt`), trained by somebody else on 28 by 28 pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.peer_measure import say
from benchmarks.pictures import panels
from benchmarks.results import Report, options
from matplotlib.ticker import FixedLocator, FuncFormatter
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

import thalweg as tw
from thalweg.show import style
from thalweg.show.palette import colour
from thalweg.show.trial_text import interval, percent
from thalweg.study.forgetting.pretrained import reader
from thalweg.trials.compression import compression, compression_orders
from thalweg.trials.ground import make_ground

ABOUT = """\
## A pretrained net on new data

The convolutional net of digit-recognizer-py (390,410 parameters) on scikit-learn's 8 by 8 digits, scaled up: 300
training samples, 600 held out, of which half tune step sizes and half judge."""

TRAIN, HELD_OUT = 300, 600

SIZES = (8, 4, 3, 2, 0.5, 0.25)
"""Bits, and shares of the rank, that layers are compressed to."""

PICTURE = "compression.svg"

TICKS = (-0.1, -0.001, 0, 0.001, 0.1)

MARKS = ("o", "s", "D", "v", "^", "<")

LINEAR = 1e-4
"""Changes of the loss below this are drawn on a linear scale, those beyond on a logarithmic one."""


def pretrained() -> tw.Task:
    """The net with its trained weights, and the new data."""
    from sklearn.datasets import load_digits

    model = reader(0)
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))[: TRAIN + HELD_OUT]
    images = torch.as_tensor(data.images, dtype=torch.float32)[order][:, None] / 16
    images = functional.interpolate(images, size=(28, 28), mode="bilinear")
    labels = torch.as_tensor(data.target)[order]

    def accuracy(model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            hits = model(images[TRAIN:]).argmax(dim=1) == labels[TRAIN:]
        return {"accuracy": float(hits.double().mean())}

    return tw.Task(
        model,
        tw.Loss(lambda model, batch: model(batch[0]), cross_entropy),
        train=list(zip(images[:TRAIN].split(100), labels[:TRAIN].split(100), strict=True)),
        held_out=list(zip(images[TRAIN:].split(100), labels[TRAIN:].split(100), strict=True)),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        evaluate=accuracy,
    )


def cross_entropy(output: Tensor, batch: Any) -> Tensor:
    return functional.cross_entropy(output, batch[1])


def layers_part(quick: bool, seeds: int) -> list[str]:
    """Training the layer, and the two layers, of the highest priority."""
    task = pretrained()
    before = task.evaluate(task.model)["accuracy"] if task.evaluate else 0.0
    settings: dict[str, Any] = {"steps": 4 if quick else 40, "batch": 32, "seeds": 7 if quick else seeds}
    found = tw.trial(
        task, ["layers:top:1", "layers:top:2"], question="as good", margin=0.05, saving=0.1, say=say, **settings
    )
    judged = found.data["stages"]["confirm"]
    scale = judged["start_loss"]
    lines = [
        f"Loss at the start {scale:.4f}, accuracy {before:.3f}. {settings['steps']} steps of 32 samples, "
        f"{settings['seeds']} seeds. Asked: as good as full training within 5 % of the start's loss, in a tenth less "
        "time.",
        "",
        "| arm | trains | loss after | accuracy | seconds |",
        "|---|---|---|---|---|",
    ]
    ground = make_ground(task, batch=32)
    order = ground.layer_orders["top"]
    for curve in judged["curves"]:
        name = curve["arm"]
        trained = ", ".join(order[: int(name[11])]) if name in found.data["plan"]["arms"] else ""
        accuracy = judged["measures"][name]["accuracy"]
        lines.append(f"| {name} | {trained} | {curve['loss'][-1]:.4f} | {accuracy:.3f} | {curve['seconds']:.3f} |")
    lines += ["", "| arm | against | lead, share of the start's loss | interval | p |", "|---|---|---|---|---|"]
    for one in found.verdicts:
        for c in one["comparisons"]:
            against = c["against"] + (" in equal time" if c["equal_time"] else "")
            values = f"{percent(c['share'])} | {interval(c['effect'], scale)} | {c['effect']['p_value']:.2g}"
            lines.append(f"| {one['arm']} | {against} | {values} |")
    lines.append("")
    for one in found.verdicts:
        lines.append(
            f"{one['arm']}: **{one['word']}**, p {one['p_holm']:.2g} after correction, {one['saving']:.0%} less time; "
            f"{one['change']}.  "
        )
    spent = found.data["spent"]
    lines.append(f"Spent: {spent['seconds']:.0f} s, {spent['gradients']:,} gradients.")
    say("\n".join(lines))
    return lines


def compression_part(quick: bool, picture: Path | None) -> list[str]:
    """Every layer compressed: foretold beside measured, and orders beside each other."""
    task = pretrained()
    problem, held_out = task.problem(), task.problem(held_out=True)
    table = compression(problem, held_out, SIZES)
    lines = [
        "| layer | parameters | to | foretold | measured | held-out |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['layer']} | {row['parameters']:,} | {row['to']:g} | {row['predicted']:+.2e} | "
            f"{row['measured']:+.2e} | {row['held_out']:+.2e} |"
            for row in table
        ),
        "",
    ]
    if picture is not None:
        draw(table, picture / PICTURE)
        lines += [f"![the loss foretold against the loss measured, for every layer and size]({PICTURE})", ""]
    for column in ("measured", "held_out"):
        found = stats.spearmanr(table["predicted"], table[column])
        bend = stats.spearmanr(table["bend"], table[column])
        lines.append(
            f"Rank correlation of the foretold change with the {column.replace('_', '-')} one: {found.statistic:.3f} "
            f"(p {found.pvalue:.1g}; the second-order term alone {bend.statistic:.3f}), {len(table)} rows.  "
        )
    lines += [
        "",
        "| to | order | layers | mean held-out loss on the way | better than random orders |",
        "|---|---|---|---|---|",
    ]
    for to in (4, 3, 2):
        orders = compression_orders(problem, held_out, to, draws=4 if quick else 20)
        chance = sum(orders["random"]) / len(orders["random"])
        lines.append(f"| {to} | (none; random) | | {orders['start']:.4f}; {chance:.4f} | |")
        for name, one in orders["orders"].items():
            lines.append(
                f"| {to} | {name} | {', '.join(one['layers'])} | {one['mean']:.4f} | {one['better_than']:.0%} |"
            )
    say("\n".join(lines))
    return lines


def draw(table: tw.Table, path: Path) -> None:
    """Changes of the loss as foretold, across, and as measured, up: on training and on held-out data."""
    hues = [colour(name) for name in ("updates", "weights", "gradients", "eigenvectors", "drift", "ink")]
    titles = {"measured": "On training data", "held_out": "On held-out data"}
    with panels(path, 1, 2, (7.4, 4.0)) as grid:
        for axes, (column, title) in zip(grid[0], titles.items(), strict=True):
            both = [*table["predicted"], *table[column]]
            ends = (1.6 * min(both), 1.6 * max(both))
            axes.plot(ends, ends, color=colour("chance"), linewidth=0.9, zorder=1)
            for to, mark, hue in zip(SIZES, MARKS, hues, strict=True):
                rows = [row for row in table if row["to"] == to]
                axes.plot(
                    [row["predicted"] for row in rows],
                    [row[column] for row in rows],
                    mark,
                    color=hue,
                    markersize=5.5,
                    label=f"{to} bits" if to > 1 else f"{to:.0%} of the rank",
                )
            for scale, limits in ((axes.set_xscale, axes.set_xlim), (axes.set_yscale, axes.set_ylim)):
                scale("symlog", linthresh=LINEAR, linscale=0.5)
                limits(*ends)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(FixedLocator(TICKS))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
            axes.set_title(title, loc="left", color=colour("ink"))
            axes.set_xlabel("change of the loss, foretold", color=colour("muted"))
            axes.set_ylabel("measured", color=colour("muted"))
            style.frame(axes, grid="both")
        known = grid[0][0].get_legend_handles_labels()
        grid[0][0].figure.legend(
            *known, frameon=False, fontsize=style.SMALL, loc="outside lower center", ncols=len(SIZES), handletextpad=0.2
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("fine_tune", __doc__, repeats=1)
    parser.add_argument("--part", nargs="+", choices=["layers", "compression"], default=["layers", "compression"])
    parser.add_argument("--seeds", type=int, default=8)
    chosen: argparse.Namespace = parser.parse_args(arguments)
    report = Report("fine_tune", "fine_tune", ABOUT, chosen, arguments)
    if "layers" in chosen.part:
        report.section("layers", "Which layers to train", layers_part(chosen.quick, chosen.seeds))
    if "compression" in chosen.part:
        report.section(
            "compression",
            "Which layers to compress",
            compression_part(chosen.quick, None if report.out is None else report.out.parent),
        )


if __name__ == "__main__":
    main()
