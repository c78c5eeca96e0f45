"""A pair of text domains: English prose, then Python code, the next character foretold by a small transformer.

Both texts come with Python: its language reference (`pydoc_data/topics.py`, read as text, never run) and the sources
of its standard library's top-level modules without their comments and texts in triple quotes, which are prose too.
Every tenth part is judged on, and every tenth is tuned on.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from thalweg.errors import InputError
from thalweg.study.forgetting.lessons import Lesson, Pair
from thalweg.tasks.characters import CHARACTERS, CharacterTransformer

CONTEXT = 48
"""Characters of a sequence."""

TRAIN, JUDGED, MEASURED = 6000, 300, 200
"""Sequences: to learn from, to tune or to judge on, and to measure what was learned on."""

PROSE = re.compile(rb'(?s:""".*?"""\n?)|^[ \t]*#.*\n', re.MULTILINE)
"""What is prose in code: texts in triple quotes, and lines of comment."""

PIECE = 4000
"""Bytes of a piece of prose, of which every tenth is judged on."""

PARTS = ("train", "valid", "test")


def prose_then_code(seed: int, tasks: int) -> list[Lesson]:
    """The two domains in this order.

    Args:
        seed: of the places in the texts.
        tasks: 1 or 2.

    Raises:
        InputError: if this Python comes without its sources.
    """
    lessons = []
    for number, domain in enumerate(("prose", "code")[:tasks]):
        train, valid, test = (_sequences(domain, part, 2 * seed + number) for part in PARTS)
        lessons.append(Lesson(train, valid, test, samples=MEASURED))
    return lessons


def transformer(seed: int) -> nn.Module:
    """Two layers of width 64: 119,296 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CharacterTransformer(layers=2, width=64, heads=4, context=CONTEXT)


def _sequences(domain: str, part: str, seed: int) -> Pair:
    text, count = _text(domain, part), TRAIN if part == "train" else JUDGED
    starts = torch.randint(0, len(text) - CONTEXT, (count, 1), generator=torch.Generator().manual_seed(seed))
    pieces = text[starts + torch.arange(CONTEXT + 1)]
    return pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()


@cache
def _text(domain: str, part: str) -> Tensor:
    """Character numbers of a domain's part, piece by piece or file by file."""
    home = Path(sysconfig.get_paths()["stdlib"])
    pieces = _topics(home) if domain == "prose" else [_code(path) for path in sorted(home.glob("*.py"))]
    place = {"valid": 8, "test": 9}
    chosen = [
        piece
        for number, piece in enumerate(pieces)
        if (number % 10 == place[part] if part in place else number % 10 < min(place.values()))
    ]
    raw = b"\n".join(chosen)
    if len(raw) <= CONTEXT + 1:
        raise InputError(f"the standard library's {domain} is not in {home}; use a Python that has its sources")
    codes = torch.frombuffer(bytearray(raw), dtype=torch.uint8).long()
    return torch.where(codes < CHARACTERS, codes, ord("?"))


def _code(path: Path) -> bytes:
    return PROSE.sub(b"", path.read_bytes())


def _topics(home: Path) -> list[bytes]:
    """The language reference, the texts of the one dictionary in the file, in pieces: its chapters are too uneven."""
    file = home / "pydoc_data" / "topics.py"
    if not file.is_file():
        return []
    tree = ast.parse(file.read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    paragraphs = dict.fromkeys("\n".join(text for text in texts if "\n" in text).split("\n\n"))  # many come twice
    whole = "\n\n".join(paragraphs).encode()
    return [whole[start : start + PIECE] for start in range(0, len(whole), PIECE)]
