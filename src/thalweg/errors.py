"""What thalweg says when something is wrong. Each message names the value and says what to do next."""

from __future__ import annotations

import difflib
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path


class ThalwegError(Exception):
    """Base class of everything that thalweg raises on purpose."""


class InputError(ThalwegError, ValueError):
    """An argument, a model, a loss or a data set cannot be worked with as given."""


class NoSecondDerivativeError(InputError):
    """A model or loss uses an operation that torch cannot differentiate twice."""


class NotDeterministicError(ThalwegError):
    """Two evaluations of the same loss differ, so a Hessian of it would mean nothing."""


class StaleOperatorError(ThalwegError):
    """The weights changed after an operator had been built on them."""


class RunError(ThalwegError):
    """A run folder cannot be opened, written or read as asked."""


class RankError(ThalwegError):
    """Another process of a job failed, or did not come where it was waited for."""


class MissingExtraError(ThalwegError, ImportError):
    """An optional package is needed for what was asked."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The known names most like `name`, as the tail of an error message.

    Args:
        name: what was asked for.
        known: what there is.
        count: how many names to list at the most.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=count, cutoff=0.3) or known[:count]
    return ", ".join(repr(item) for item in near) if near else "none"


def told(error: BaseException) -> tuple[str, str]:
    """What is wrong, and how to mend it: of an error of the user's code, where that is."""
    if isinstance(error, ThalwegError):
        what, _, mend = str(error).partition("; ")
        return what, mend
    what = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
    paths = sysconfig.get_paths()
    folders = [str(Path(__file__).parent), *(paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib"))]
    libraries = ("<", *(folder.rstrip(os.sep) + os.sep for folder in folders))
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(libraries)]
    if not frames and isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}", "give another place, or make that one writable"
    if not frames:
        return what, "this is not foreseen: --debug shows the trace, which is worth a report"
    name = frames[-1].name
    place = f"{frames[-1].filename}:{frames[-1].lineno}{'' if name.startswith('<') else f', in {name}'}"
    return what, f"it came out of your code at {place}; --debug shows the whole trace"


def warn(message: str) -> None:
    """Warn, and never raise, even where warnings are errors: for what runs inside a training."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    except Warning:
        print(message, file=sys.stderr)
