"""Fashion-MNIST: 28 by 28 grey pictures of clothes in ten kinds (Xiao, Rasul and Vollgraf, arXiv 1708.07747, MIT).

Nothing is downloaded. The four files come with Debian's and Ubuntu's package `dataset-fashion-mnist`, or lie in the
folder that THALWEG_FASHION_MNIST names, as the idx files of the original release, compressed or not.

The task is a fully connected network, 784-256-256-10 with ReLU, 269,322 parameters.
"""

from __future__ import annotations

import gzip
import itertools
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.errors import InputError
from thalweg.losses import Loss
from thalweg.task import Task
from thalweg.tasks.digits import accuracy, cross_entropy_of_output, output_of_inputs

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts the files."""

VARIABLE = "THALWEG_FASHION_MNIST"
"""The environment variable that names another folder."""

MEAN, DEVIATION = 0.2860, 0.3530  # of all training pixels, between 0 and 1

Part = Literal["train", "t10k"]


def fashion_mnist_task(
    hidden: Sequence[int] = (256, 256), samples: int = 3840, held_out: int = 1024, batch: int = 256, seed: int = 0
) -> Task:
    """The untrained fully connected network with training and held-out batches in a fixed order.

    Args:
        hidden: widths of the hidden layers.
        samples: training pictures, drawn from the 60,000.
        held_out: pictures from the separate test set of 10,000.
        batch: samples of one batch to measure on.
        seed: for the draw of pictures and the first weights.

    Raises:
        InputError: if the data set is missing or damaged, or has fewer pictures than asked for.
    """
    widths = [784, *hidden, 10]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for start, stop in itertools.pairwise(widths):
            layers += [nn.Linear(start, stop), nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
    return pictures_task(model, samples, held_out, batch, seed, rate=0.05)


def pictures_task(model: nn.Module, samples: int, held_out: int, batch: int, seed: int, rate: float) -> Task:
    """A task of sorting the pictures with any model from `(n, 1, 28, 28)` to `(n, 10)`.

    Args:
        model: the network.
        samples: training pictures.
        held_out: held-out pictures.
        batch: samples of one batch to measure on.
        seed: for the draw of pictures.
        rate: learning rate of SGD with momentum 0.9.

    Raises:
        InputError: as `fashion_mnist_task`.
    """
    train = draw("train", samples, seed)
    other = draw("t10k", held_out, seed)
    return Task(
        model=model,
        loss=Loss(output_of_inputs, cross_entropy_of_output),
        train=in_batches(*train, batch),
        held_out=in_batches(*other, batch),
        optimizer=lambda network: torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9),
        evaluate=lambda network: {"accuracy": accuracy(network, *other)},
    )


def draw(part: Part, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures `(n, 1, 28, 28)`, centred and scaled, and labels `(n,)`, drawn without replacement.

    Args:
        part: "train" (60,000 pictures) or "t10k" (10,000).
        samples: how many.
        seed: for the draw.

    Raises:
        InputError: as `fashion_mnist_task`.
    """
    images, labels = read(part)
    if not 1 <= samples <= len(labels):
        raise InputError(f"samples={samples}: this part of Fashion-MNIST has {len(labels)}; ask for 1 to that many")
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:samples]
    pictures = (images[chosen].unsqueeze(1).float() / 255 - MEAN) / DEVIATION
    return pictures, labels[chosen].long()


def read(part: Part) -> tuple[Tensor, Tensor]:
    """Pictures `(n, 28, 28)` and labels `(n,)` of a part, as bytes.

    Args:
        part: "train" or "t10k".

    Raises:
        InputError: as `fashion_mnist_task`.
    """
    images = _idx(f"{part}-images-idx3-ubyte", (28, 28))
    labels = _idx(f"{part}-labels-idx1-ubyte", ())
    if len(images) != len(labels):
        raise InputError(f"{folder()} holds {len(images)} pictures and {len(labels)} labels of {part}; fetch it anew")
    return images, labels


def folder() -> Path:
    """Where the files are looked for."""
    return Path(os.environ.get(VARIABLE) or FOLDER)


def in_batches(inputs: Tensor, targets: Tensor, batch: int) -> list[tuple[Tensor, Tensor]]:
    """Pairs of inputs and targets, `batch` samples each but the last.

    Args:
        inputs: samples first.
        targets: samples first.
        batch: samples of a batch.

    Raises:
        InputError: if `batch` is not positive.
    """
    if batch < 1:
        raise InputError(f"batch={batch}: a batch holds at least one sample")
    return list(zip(torch.split(inputs, batch), torch.split(targets, batch), strict=True))


def _idx(name: str, shape: tuple[int, ...]) -> Tensor:
    """A file in LeCun's idx format: a magic number with the type and the rank, sizes, then the bytes."""
    path = folder() / f"{name}.gz"
    if not path.is_file():
        path = folder() / name
    if not path.is_file():
        raise InputError(
            f"Fashion-MNIST is not in {folder()} ({name}.gz is missing): apt-get install dataset-fashion-mnist, "
            f"or set {VARIABLE}=folder with the four idx files"
        )
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); fetch it anew") from error
    rank = 1 + len(shape)
    sizes = tuple(int(size) for size in np.frombuffer(raw[4 : 4 + 4 * rank], dtype=">i4"))
    body = np.frombuffer(raw, dtype=np.uint8, offset=min(4 + 4 * rank, len(raw)))
    if raw[:4] != bytes([0, 0, 8, rank]) or sizes[1:] != shape or body.size != int(np.prod(sizes)):
        raise InputError(f"{path} is no idx file of bytes with items of shape {shape}; fetch it anew")
    return torch.from_numpy(body.reshape(sizes).copy())
