"""An LSTM that foretells the next character of Python's own standard library; the text is that of `characters`.

One layer of width 64 over an embedding of 32, context 32: 37,504 parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thalweg.task import Task
from thalweg.tasks.characters import CHARACTERS, text_task


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
    return text_task(model, 3e-3, context, samples, held_out, batch, seed)
