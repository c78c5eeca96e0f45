"""The study of forgetting as a Markdown page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thalweg.runs import write_atomically
from thalweg.show.forgetting_plots import (
    NAMES,
    SEEDS,
    TITLES,
    best_rival,
    draw_curves,
    draw_so_far,
    draw_streams,
    sorted_kinds,
)
from thalweg.show.numbers import DASH
from thalweg.study.forgetting.kinds import ALONG, OWN

HEADS = ("method", "accuracy", "backward transfer", "forgetting", "forward transfer", "learning", "memory", "step",
         "task", "settings")  # fmt: skip
ABOUT = {
    "permuted": "Ten tasks, the pixels in another order in each. Domain-incremental.",
    "rotated": "Ten tasks, the pictures turned by 10° more in each. Domain-incremental.",
    "split": "Five tasks of two classes each, and a sample's task is known. Task-incremental.",
    "texts": "A transformer (two layers of width 64, 119,296 parameters, AdamW) foretells the next character of "
    "English prose, Python's language reference, then of Python code, its standard library without comments. What GPM "
    "does not reach (embeddings, norms, biases) moves freely or stands still, whichever is better.",
    "pretrained": "The convolutional net of digit-recognizer-py (390,410 parameters, trained by its authors on MNIST) "
    "reads scikit-learn's digits, which it has never seen, as it comes; then it learns 2,000 pictures of clothes on "
    "the same ten outputs with AdamW. Backward transfer is what that costs the digits. SI has nothing to go by here: "
    "it must see the old training.",
    "many": "Three times as many permuted tasks in the same net, with the settings chosen for ten.",
    "narrow": "Ten permuted tasks in a net of 784-20-20-10, with the settings chosen for the wide one.",
    "classes": "Split, where the net must also tell which task a sample is of: class-incremental, with the settings "
    "chosen for Split. Without old data the old outputs are never seen beside the new ones, and protection of weights "
    "does not make up for that.",
}
INTRODUCTION = """\
# Forgetting: claim C8

Does protecting directions of an old task reduce forgetting, beside the methods that keep no data? Streams of tasks are
learned one after another; the picture streams by a bias-free perceptron, 784-100-100-10, with plain SGD: 6,000 pictures
of Fashion-MNIST a task, two epochs, batches of 32."""
FAIR = """\
## How it was made fair

Every method has a grid of three step sizes times three settings of its own (plain training: the step sizes alone; the
random controls: those of the Hessian's), whose step size and strength are extended while their edge is best; the one
with the best validation accuracy at the end, on seeds that the result does not use, was run on the seeds of the result
and judged on test samples. Validation samples come from a reserve that no task trains on. Under SGD every penalty is
taken implicitly, the rivals' too; under AdamW rivals' penalties are added to the gradient and their projections are of
the update. GPM's grid holds its authors' thresholds for this net. EWC, SI and MAS were held against avalanche-lib
(`benchmarks/second_opinion.py`). What is bounded by time: OGD and directions of the Hessian keep whole vectors and were
given at most 20 a task. What is not fresh: the guard was developed on the picture streams with one seed, and its grid
was placed by looking at the tuning seed (decision 0016); the seeds of the result are fresh, and so are the texts and
the pretrained net.

*Accuracy* is the mean over all tasks at the end; *backward transfer* what later tasks did to earlier ones; *learning*
the accuracy of each task just after it was learned, so what protection left of the new: old and new always together.
Intervals are 95 %, Student's t over seeds; a *lead* is taken seed by seed. Memory is what is kept between tasks besides
the weights; *step* the time of a training step beside plain training and *task* the time that measuring a learned task
takes. Both were taken beside other work, that of other streams' plain training too, and are rough to a factor of two;
`benchmarks/guarding.py` times the guard by itself."""
WORDS = {"ahead": "**ahead**", "equal": "equal", "behind": "**behind**"}


def write_forgetting(board: Mapping[str, Any], folder: Path, command: str) -> list[Path]:
    """Write `forgetting.md` and its pictures.

    Args:
        board: of `thalweg.study.forgetting.study`.
        folder: where to.
        command: that makes them again.

    Returns:
        The files.
    """
    page = folder / "forgetting.md"
    pictures = {"streams": folder / "forgetting.svg", "so_far": folder / "forgetting_so_far.svg"}
    draw_streams(board, pictures["streams"])
    draw_so_far(board, pictures["so_far"])
    if board.get("curves"):
        pictures["curves"] = folder / "forgetting_curves.svg"
        draw_curves(board, pictures["curves"])
    write_atomically(page, markdown(board, {name: path.name for name, path in pictures.items()}, command).encode())
    return [page, *pictures.values()]


def markdown(board: Mapping[str, Any], pictures: Mapping[str, str], command: str) -> str:
    """The page's text."""
    tuned, failing = sorted_kinds(board)
    lines = [INTRODUCTION, "", *_outcome(board, tuned)]
    lines += [f"![Accuracy at the end and just after learning, method by method]({pictures['streams']})", ""]
    lines += [f"![Mean accuracy over the tasks so far, after each task]({pictures['so_far']})", "", FAIR, ""]
    for kind in tuned:
        lines += _section(kind, board)
    lines += _controls(board, tuned)
    if "curves" in pictures:
        lines += _curves(board, pictures["curves"])
    if failing:
        lines += ["## At the edges, and where it fails", ""]
        for kind in failing:
            lines += _section(kind, board, "###")
    seeds, tuning = len(board["seeds"]), len(board["tuning_seeds"])
    most = max(row["seeds"] for rows in board["streams"].values() for row in rows)
    told = f"{seeds} seeds, {most} for the finalists of the picture streams, settings chosen on {tuning} other"
    lines += [f"{told}. `{command}`", ""]
    return "\n".join(lines)


def _outcome(board: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    """The guard beside the best of the others on each stream."""
    lines = [
        "| stream | | accuracy | best of the others | accuracy | lead, seed by seed | seeds | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        rows = {row["method"]: row for row in board["streams"][kind]}
        rival = best_rival(board["streams"][kind])
        for lead in board["leads"][kind]:
            if rival is not None and lead["rival"] == rival["method"]:
                own = rows[lead["own"]]
                told = f"{lead['lead']:+.3f} ± {lead['half']:.3f}".replace("-", "−")
                lines.append(
                    f"| {kind} | {NAMES[lead['own']]} | {_ranged(own, 'accuracy')} | {NAMES[rival['method']]} | "
                    f"{_ranged(rival, 'accuracy')} | {told} | {min(own['seeds'], rival['seeds'])} | "
                    f"{WORDS[lead['word']]} |"
                )
    return [*lines, ""] if len(lines) > 2 else []


def _controls(board: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    """Directions of the Hessian beside their random controls."""
    lines = []
    for kind in kinds:
        rows = {row["method"]: row for row in board["streams"][kind]}
        if all(name in rows for name in ALONG):
            figures = [f"{_ranged(rows[name], 'accuracy')} ({_ranged(rows[name], 'backward')})" for name in ALONG]
            plain = _ranged(rows["none"], "accuracy") if "none" in rows else DASH
            lines.append(f"| {kind} | {rows['hessian']['settings']['k']:g} | {' | '.join(figures)} | {plain} |")
    if not lines:
        return []
    return [
        "## Top-k of the old task against as many random ones",
        "",
        "Projecting off the k stiffest directions of each old task's Hessian, off k random ones, and off k random ones "
        "with the same share in each layer: accuracy (backward transfer).",
        "",
        "| stream | k | Hessian | random | layer-matched random | nothing protected |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
    ]


def _curves(board: Mapping[str, Any], picture: str) -> list[str]:
    lines = [
        "## How much protection",
        "",
        "The guard by its strength λ and by the share of the inputs' energy that is projected off, and projections off "
        "k directions of each old task, at the step sizes chosen above; accuracy at the end as a line, just after "
        "learning dotted. Over two seeds, so without intervals.",
        "",
        f"![Accuracy by strength and by number of directions]({picture})",
        "",
        "| stream | method | settings | accuracy | backward transfer | learning | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, plans in board["curves"].items():
        for row in (row for rows in plans.values() for row in rows):
            figures = " | ".join(_ranged(row, key) for key in ("accuracy", "backward", "learning"))
            lines.append(f"| {kind} | {NAMES[row['method']]} | {_settings(row)} | {figures} | {row['seeds']} |")
    return [*lines, ""]


def _section(kind: str, board: Mapping[str, Any], mark: str = "##") -> list[str]:
    rows = board["streams"][kind]
    lines = [f"{mark} {TITLES[kind]}", "", ABOUT[kind], "", *_table(rows)]
    apart = [
        f"{NAMES[lead['own']]} over {NAMES[lead['rival']]} {lead['lead']:+.3f} ± {lead['half']:.3f}".replace("-", "−")
        for lead in board["leads"][kind]
        if lead["word"] != "ahead"
    ]
    if apart:
        lines += [f"Not ahead, seed by seed: {'; '.join(apart)}.", ""]
    return lines


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    plain = next((row["step_seconds"] for row in rows if row["method"] == "none"), None)
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    for row in sorted(rows, key=lambda row: -row["accuracy"]):
        figures = [
            _ranged(row, key) for key in ("accuracy", "backward", "forgetting", "forward", "learning") if key in row
        ]
        name = NAMES.get(row["method"], row["method"])
        name = f"**{name}**" if row["method"] in OWN else name
        memory = f"{row['nbytes'] / 2**20:.2f} MiB" if row["nbytes"] else DASH
        slower = f"{row['step_seconds'] / plain:.1f}×" if plain else DASH
        costs = f"{memory} | {slower} | {row['ending_seconds']:.2f} s"
        lines.append(f"| {name} | {' | '.join(figures)} | {costs} | {_settings(row)} |")
    return [*lines, ""]


def _settings(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in row["settings"].items())


def _ranged(row: Mapping[str, Any], key: str) -> str:
    half = row[f"{key}_half"]
    known = math.isfinite(half) and row["seeds"] >= SEEDS
    return (f"{row[key]:.3f} ± {half:.3f}" if known else f"{row[key]:.3f}").replace("-", "−")
