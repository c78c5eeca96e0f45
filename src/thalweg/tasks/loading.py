"""A user's task by its address: `module:function` or `path/to/file.py:function`.

The function is called with what `--set key=value` gave and returns a `Task`. Addresses come from the command line
only, never from a file in a run folder.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from thalweg.errors import InputError, nearest
from thalweg.task import Task


def load_task(address: str, settings: Mapping[str, Any] | None = None) -> Task:
    """Import the function at `address` and call it.

    Args:
        address: `module:function` or `path/to/file.py:function`.
        settings: keyword arguments for it.

    Raises:
        InputError: if it cannot be found, imported or called, or returns something else than a Task.
    """
    place, _, name = address.rpartition(":")
    if not place or not name:
        raise InputError(f"--task {address!r} is no address; write module:function or path/to/file.py:function")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise InputError(f"{place} has no function {name!r}; the nearest are {nearest(name, known)}")
    try:
        task = function(**(settings or {}))
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # the call itself did not fit
            raise InputError(f"{address} does not take these settings ({error}); see --set key=value") from error
        raise
    if not isinstance(task, Task):
        raise InputError(f"{address} returned {type(task).__name__}; return thalweg.Task(model, loss, train, held_out)")
    return task


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs as keyword arguments; values are Python literals where they read as such, else strings.

    Raises:
        InputError: for a pair without "=" or a key that is no name.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.isidentifier():
            raise InputError(f"--set {pair!r} is not key=value; write --set width=128, say")
        try:
            settings[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[key] = text
    return settings


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"there is no file {path}; --task takes path/to/file.py:function from {Path.cwd()}")
    name = f"thalweg_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(
            f"{path} does not import: {type(error).__name__}: {error}; run python {path} to see"
        ) from error
    return module


def _from_name(place: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise InputError(
            f"module {place!r} does not import: {type(error).__name__}: {error}; "
            f"run python -c 'import {place}' in {here} to see, or give path/to/file.py:function"
        ) from error
