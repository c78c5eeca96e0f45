"""The recorder of a rank that leaves recording to the first."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import SupportsFloat

from thalweg.recording.forecast import Forecast
from thalweg.recording.recorder import Recorder


class SilentRecorder(Recorder):
    """Takes every call of a recorder and does nothing: the first rank records the weights, which are the same on all.

    Attributes:
        folder: the run folder, which the first rank writes.
        forecast: what is kept there.
        closed: True.
    """

    def __init__(self, folder: Path, forecast: Forecast) -> None:
        self.folder, self.forecast, self.closed = folder, forecast, True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Nothing is open."""

    def step(self) -> None:
        """The first rank counts."""

    def log(self, **scalars: SupportsFloat) -> None:
        """The first rank's numbers are kept."""
