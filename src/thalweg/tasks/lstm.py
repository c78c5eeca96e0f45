"""An LSTM that foretells the next character of Python's own standard library; the text is that of `characters`.

One layer of width 64 over an embedding of 32, context 32: 37,504 parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thalweg.losses import Loss
from thalweg.task import Task
from thalweg.tasks.characters import CHARACTERS, bits, sequences
from thalweg.tasks.digits import cross_entropy_of_output, output_of_inputs
from thalweg.tasks.fashion_mnist import in_batches


class CharacterLSTM(nn.Module):
    """Scores of the next character after each place.

    Args:
        width: of the state.
        embedding: of a character.
    """

    def __init__(self, width: int = 64, embedding: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(CHARACTERS, embedding)
        self.lstm = nn.LSTM(embedding, width, batch_first=True)
        self.head = nn.Linear(width, CHARACTERS)

    def forward(self, text: Tensor) -> Tensor:
        """From character numbers `(n, length)` to scores `(n, length, 128)`."""
        states, _ = self.lstm(self.embed(text))
        scores: Tensor = self.head(states)
        return scores


def lstm_task(
    width: int = 64,
    embedding: int = 32,
    context: int = 32,
    samples: int = 512,
    held_out: int = 256,
    batch: int = 128,
    seed: int = 0,
) -> Task:
    """The untrained LSTM with training and held-out batches (characters, the next characters).

    Args:
        width: of the state.
        embedding: of a character.
        context: characters of a sequence.
        samples: training sequences.
        held_out: sequences from files that no training sequence comes from.
        batch: sequences of one batch to measure on.
        seed: for the places in the text and the first weights.

    Raises:
        InputError: if the library's source is not there.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CharacterLSTM(width, embedding)
    train, other = (in_batches(*sequences(part, n, context, seed), batch) for part, n in ((0, samples), (1, held_out)))
    return Task(
        model=model,
        loss=Loss(output_of_inputs, cross_entropy_of_output),
        train=train,
        held_out=other,
        optimizer=lambda network: torch.optim.AdamW(network.parameters(), lr=3e-3),
        evaluate=lambda network: {"bits_per_character": bits(network, other)},
    )
