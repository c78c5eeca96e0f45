"""What the callbacks of training libraries share: a run folder for each training, and nothing that reaches it."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from thalweg.errors import InputError, MissingExtraError, RunError, nearest, warn
from thalweg.recording.manifest import parse_bytes
from thalweg.recording.store import SEGMENTS, own_segment_files
from thalweg.recording.watch import Recorder, watch
from thalweg.runs import MANIFEST
from thalweg.space import unwrapped

if TYPE_CHECKING:
    from typing_extensions import Self

_OWN = ("model", "optimizer", "folder")
_FOLDERS = 10_000
_ENDLESS = 2**40
"""Steps from which on a trainer says that it does not know when it ends."""


class Session:
    """Recordings of one callback: each training gets a folder of its own.

    A folder that holds a run is left alone and the next free name is taken: `runs/a`, `runs/a-2`, `runs/a-3`.
    `overwrite=True` removes the run in the way of the first training only, and with `resume=True` every training goes
    on in the same folder.

    Args:
        folder: where the first training is kept.
        options: what `thalweg.watch` takes beside model, optimizer and folder.

    Attributes:
        recorder: the recording under way, or the last one, or None.
        folders: the run folders so far.

    Raises:
        InputError: if `watch` knows no such option, or its value cannot be worked with.
    """

    def __init__(self, folder: str | Path, options: Mapping[str, Any]) -> None:
        check_options(options)
        self.folder = Path(folder)
        self.options = dict(options)
        self.recorder: Recorder | None = None
        self.folders: list[Path] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "recorder": None}  # a recording stays in the process that began it

    def begin(self, model: nn.Module, optimizers: Sequence[Any], steps: float | None = None) -> Recorder | None:
        """Begin to record a training; what cannot be recorded is one warning.

        Args:
            model: what is trained.
            optimizers: in the order in which they step.
            steps: that the trainer will make, as far as it knows; with a budget they say what fits, unless `keep` does.
        """
        self.end()
        self.recorder = None
        try:
            reason = unrecordable(model)
            if reason:
                warn(f"thalweg does not record this training: {reason}")
                return None
            folder = self._next_folder()
            chosen: Any = optimizers[0] if len(optimizers) == 1 else list(optimizers)
            options = self.options
            if options.get("budget") is not None and options.get("keep") is None and steps and 1 <= steps < _ENDLESS:
                options = {"steps": int(steps), **options}
            self.recorder = watch(model, chosen, folder, **options)
            self.folders.append(folder)
        except Exception as error:
            warn(f"thalweg does not record this training: {_words(error)}")
        return self.recorder

    def log(self, scalars: Mapping[str, Any]) -> None:
        """Keep numbers with the step just taken."""
        if self.recorder is None or not scalars:
            return
        try:
            self.recorder.log(**{str(name): value for name, value in scalars.items()})
        except Exception as error:
            warn(f"thalweg did not keep the numbers {', '.join(map(repr, scalars))}: {_words(error)}")

    def end(self, error: BaseException | None = None) -> None:
        """End the recording under way; a second call does nothing."""
        if self.recorder is None:
            return
        try:
            if error is None:
                self.recorder.close()
            else:
                self.recorder.__exit__(type(error), error, None)
        except Exception as found:
            warn(f"thalweg could not end the recording {self.recorder.folder}: {_words(found)}")

    def _next_folder(self) -> Path:
        first_overwritten = bool(self.options.get("overwrite")) and not self.folders
        if first_overwritten or self.options.get("resume"):
            return self.folder
        for number in range(1, _FOLDERS):
            folder = self.folder if number == 1 else self.folder.with_name(f"{self.folder.name}-{number}")
            if not (folder / MANIFEST).exists() and not own_segment_files(folder / SEGMENTS):
                return folder
        raise RunError(f"{self.folder} and {_FOLDERS - 2:,} folders after it hold runs; choose another name")


class RecordingCallback:
    """What every library's callback is: a session, made of this class and of the library's own.

    Args:
        folder: the run folder; where it holds a run, the next free name is taken.
        every: optimizer steps that are summed into one row.
        budget: bytes on disk, as `thalweg.watch` takes it; where the trainer knows its steps, what fits is kept.
        scalars: whether to keep what is logged.
        options: further arguments of `thalweg.watch`.

    Attributes:
        places: where the library's own class is, `(module, class name)`.
        extra: thalweg's extra that brings the library.
    """

    places: ClassVar[Sequence[tuple[str, str]]]
    extra: ClassVar[str]

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        """Made of this class and of the library's own, which is only known now."""
        made: Self = object.__new__(with_bases(cls, cls.places, cls.extra))
        return made

    def __init__(
        self,
        folder: str | Path,
        every: int = 1,
        budget: int | str | None = None,
        *,
        scalars: bool = True,
        **options: Any,
    ) -> None:
        self._session = Session(folder, {"every": every, "budget": budget, **options})
        self._scalars = scalars

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (importable(type(self)), self.__dict__)

    @property
    def recorder(self) -> Recorder | None:
        """The recording under way, or the last one, or None."""
        return self._session.recorder

    @property
    def folders(self) -> tuple[Path, ...]:
        """The run folders so far, one for each training."""
        return tuple(self._session.folders)


def check_options(options: Mapping[str, Any]) -> None:
    """See to it before training begins that `watch` will take these.

    Raises:
        InputError: if it knows no such option, or `every` or `budget` cannot be worked with.
    """
    known = [name for name in inspect.signature(watch).parameters if name not in _OWN]
    for name in options:
        if name not in known:
            raise InputError(f"thalweg.watch takes no {name!r}; the nearest are {nearest(name, known)}")
    every = options.get("every", 1)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise InputError(f"every={every!r}: give a whole number of at least 1")
    if options.get("budget") is not None:
        parse_bytes(options["budget"])


def unrecordable(model: nn.Module) -> str:
    """Why the weights of this model cannot be read in one process, or nothing."""
    for name, parameter in unwrapped(model).named_parameters():
        if type(parameter).__name__ == "DTensor" or type(parameter.data).__name__ == "DTensor":
            return f"parameter {name!r} is split over processes (FSDP); train with DDP or on one device to record"
        if hasattr(parameter, "ds_id"):
            return f"parameter {name!r} is split over processes (DeepSpeed ZeRO-3); train with DDP or ZeRO-1 to record"
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        return "the model is split over processes (FSDP); train with DDP or on one device to record"
    return ""


def with_bases(cls: type, places: Sequence[tuple[str, str]], extra: str) -> type:
    """The class with the callback classes of a library as further bases, so that the library takes it for its own.

    Of several places where the library may be, those count that the user's program has imported; if none is, the
    first that can be.

    Args:
        cls: the class.
        places: `(module, class name)`.
        extra: thalweg's extra that brings the library.

    Raises:
        MissingExtraError: if the library is not installed.
    """
    there = [place for place in places if place[0] in sys.modules]
    found: list[type] = []
    for module, name in there or places:
        try:
            base = getattr(importlib.import_module(module), name)
        except ImportError:
            continue
        found.append(base)
        if not there:
            break
    if not found:
        names = " or ".join(module.split(".")[0] for module, _ in reversed(places))
        raise MissingExtraError(f"{names} is not installed; pip install 'thalweg[{extra}]'")
    missing = [base for base in dict.fromkeys(found) if not issubclass(cls, base)]
    if not missing:
        return cls
    about = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls, *missing), about)


def rebuild(cls: Any, state: dict[str, Any]) -> Any:
    """A callback from its class without the library's bases and its attributes; pickling needs it."""
    made = cls.__new__(cls)
    made.__dict__.update(state)
    return made


def importable(made: type) -> type:
    """The class that an import finds again, below the one that `with_bases` made."""
    for cls in made.__mro__:
        found = bool(getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls)
        if found:
            return cls
    return made


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, (InputError, RunError)) else f"{type(error).__name__}: {error}"
