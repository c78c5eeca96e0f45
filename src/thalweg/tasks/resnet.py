"""ResNet-20 on Fashion-MNIST: the network that He et al. (arXiv 1512.03385, section 4.2) made for small pictures.

Nineteen 3 by 3 convolutions of widths 16, 32 and 64, each with batch norm, and a linear layer. Where the width
changes, the shortcut takes every second pixel and pads the channels with zeros, so that it has no parameters.
With one input channel: 269,434 parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.task import Task
from thalweg.tasks.fashion_mnist import pictures_task


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters.

    Args:
        inputs: channels that come in.
        width: channels that go out.
        stride: 2 halves the picture.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.extra = width - inputs

    def forward(self, x: Tensor) -> Tensor:
        """From `(n, inputs, h, w)` to `(n, width, h / stride, w / stride)`."""
        out = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.stride != 1 or self.extra:
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return functional.relu(out + x)


class ResNet(nn.Module):
    """Three stages of blocks, global mean, linear layer.

    Args:
        depth: blocks of a stage; 3 make ResNet-20.
        widths: channels of the stages.
        channels: of the picture.
        classes: of the output.
    """

    def __init__(
        self, depth: int = 3, widths: Sequence[int] = (16, 32, 64), channels: int = 1, classes: int = 10
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks = []
        inputs = widths[0]
        for stage, width in enumerate(widths):
            for number in range(depth):
                blocks.append(Block(inputs, width, 2 if stage > 0 and number == 0 else 1))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """From `(n, channels, h, w)` to `(n, classes)`."""
        out: Tensor = self.blocks(functional.relu(self.norm(self.conv(x))))
        scores: Tensor = self.head(out.mean(dim=(2, 3)))
        return scores


def resnet_task(
    depth: int = 3,
    widths: Sequence[int] = (16, 32, 64),
    samples: int = 704,
    held_out: int = 512,
    batch: int = 176,
    seed: int = 0,
) -> Task:
    """The untrained ResNet with training and held-out batches in a fixed order.

    Args:
        depth: blocks of a stage; 3 make ResNet-20.
        widths: channels of the stages.
        samples: training pictures.
        held_out: pictures from the separate test set.
        batch: samples of one batch to measure on.
        seed: for the draw of pictures and the first weights.

    Raises:
        InputError: if the data set is missing or damaged, or has fewer pictures than asked for.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResNet(depth, widths)
    return pictures_task(model, samples, held_out, batch, seed, rate=0.05)
