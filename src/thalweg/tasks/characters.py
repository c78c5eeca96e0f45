"""A small transformer that foretells the next character of Python's own standard library.

The text is the source of the library that came with the running Python (its top-level modules), so there is nothing
to download, and another version of Python has slightly other text; every tenth file is held out. Characters are ASCII,
anything else is a question mark.

Four pre-norm layers of width 128 with 4 heads, learnt positions, context 64, scaled dot-product attention: 834,304
parameters.
"""

from __future__ import annotations

import functools
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.errors import InputError
from thalweg.losses import Loss
from thalweg.task import Task
from thalweg.tasks.digits import cross_entropy_of_output, output_of_inputs
from thalweg.tasks.fashion_mnist import in_batches

CHARACTERS = 128
"""ASCII."""


class Layer(nn.Module):
    """Causal attention and a two-layer network, each behind a layer norm and added to what came in.

    Args:
        width: of the stream.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.gather = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From `(n, length, width)` to the same shape."""
        n, length, width = x.shape
        parts = self.attend(self.norm1(x)).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.gather(mixed.transpose(1, 2).reshape(n, length, width))
        y: Tensor = x + self.narrow(functional.gelu(self.widen(self.norm2(x))))
        return y


class CharacterTransformer(nn.Module):
    """Scores of the next character after each place.

    Args:
        layers: how many.
        width: of the stream.
        heads: of each attention; `width` is a multiple of it.
        context: longest text.
    """

    def __init__(self, layers: int = 4, width: int = 128, heads: int = 4, context: int = 64) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"width={width} is no multiple of heads={heads}; choose one that is")
        self.embed = nn.Embedding(CHARACTERS, width)
        self.place = nn.Embedding(context, width)
        self.layers = nn.Sequential(*[Layer(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CHARACTERS, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, text: Tensor) -> Tensor:
        """From character numbers `(n, length)` to scores `(n, length, 128)`."""
        places = torch.arange(text.shape[1], device=text.device)
        scores: Tensor = self.head(self.norm(self.layers(self.embed(text) + self.place(places))))
        return scores


def characters_task(
    layers: int = 4,
    width: int = 128,
    heads: int = 4,
    context: int = 64,
    samples: int = 176,
    held_out: int = 176,
    batch: int = 44,
    seed: int = 0,
) -> Task:
    """The untrained transformer with training and held-out batches (characters, the next characters).

    Args:
        layers: of the transformer.
        width: of its stream.
        heads: of each attention.
        context: characters of a sequence.
        samples: training sequences.
        held_out: sequences from files that no training sequence comes from.
        batch: sequences of one batch to measure on.
        seed: for the places in the text and the first weights.

    Raises:
        InputError: if the library's source is not there, or the sizes do not fit together.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CharacterTransformer(layers, width, heads, context)
    return text_task(model, 1e-3, context, samples, held_out, batch, seed)


def text_task(model: nn.Module, rate: float, context: int, samples: int, held_out: int, batch: int, seed: int) -> Task:
    """A task of foretelling the next character with any model from `(n, length)` to `(n, length, 128)`.

    Args:
        model: the network.
        rate: learning rate of AdamW.
        context: characters of a sequence.
        samples: training sequences.
        held_out: sequences from files that no training sequence comes from.
        batch: sequences of one batch to measure on.
        seed: for the places in the text.

    Raises:
        InputError: if the library's source is not there.
    """
    train, other = (in_batches(*sequences(part, n, context, seed), batch) for part, n in ((0, samples), (1, held_out)))
    return Task(
        model=model,
        loss=Loss(output_of_inputs, cross_entropy_of_output),
        train=train,
        held_out=other,
        optimizer=lambda network: torch.optim.AdamW(network.parameters(), lr=rate),
        evaluate=lambda network: {"bits_per_character": _bits(network, other)},
    )


def sequences(part: int, samples: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random pieces of the text `(n, context)` and the same pieces one character on.

    Args:
        part: 0 training, 1 held out.
        samples: how many; they may overlap.
        context: characters of each.
        seed: for the places.

    Raises:
        InputError: if there is no text, or a size is not positive.
    """
    if samples < 1 or context < 1:
        raise InputError(f"samples={samples} and context={context}: both are at least 1")
    text = library_text(part)
    if len(text) <= context + 1:
        raise InputError(f"the text has {len(text)} characters, too few for context={context}")
    starts = torch.randint(0, len(text) - context, (samples, 1), generator=torch.Generator().manual_seed(seed))
    pieces = text[starts + torch.arange(context + 1)]
    return pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()


@functools.lru_cache(maxsize=2)
def library_text(part: int) -> Tensor:
    """The top-level modules of the standard library in order of name, as character numbers.

    Args:
        part: 0 all but every tenth file, 1 every tenth.

    Raises:
        InputError: if this Python has no source on disk.
    """
    home = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(home.glob("*.py"))
    chosen = [path for number, path in enumerate(files) if (number % 10 == 9) == bool(part)]
    if not chosen:
        raise InputError(f"the standard library's source is not in {home}; use a Python that is not frozen or zipped")
    raw = b"\n".join(path.read_bytes() for path in chosen)
    codes = torch.frombuffer(bytearray(raw), dtype=torch.uint8).long()
    return torch.where(codes < CHARACTERS, codes, ord("?"))


def _bits(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    with torch.no_grad():
        total = sum(float(cross_entropy_of_output(network(b[0]), b)) * b[1].numel() for b in batches)
    return total / sum(b[1].numel() for b in batches) / float(torch.log(torch.tensor(2.0)))
