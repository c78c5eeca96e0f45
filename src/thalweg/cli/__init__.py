"""The command line: parses, calls, prints. What is decided is decided elsewhere.

Results go to standard output, one JSON document with `--json`; progress goes to standard error, and only to a
terminal. Exit code 0, or 1 for a measured failure, or 2 for wrong usage with the mend in one line.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from thalweg.cli import folders, measuring, trying
from thalweg.cli.base import app
from thalweg.errors import ThalwegError
from thalweg.show.folders import shown

__all__ = ["app", "folders", "main", "measuring", "trying"]


def main() -> None:
    """Run the command line.

    An error ends with exit code 2, one line of what is wrong and one of how to mend it; `--debug`, anywhere, or
    `THALWEG_DEBUG=1` shows its trace instead.
    """
    debugging = "--debug" in sys.argv or bool(os.environ.get("THALWEG_DEBUG"))
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except Exception as error:
        if debugging:
            raise
        what, mend = _told(error)
        print(f"thalweg: {shown(what)}", file=sys.stderr)
        if mend:
            print(f"         {shown(mend)}", file=sys.stderr)
        raise SystemExit(2) from None


def _told(error: Exception) -> tuple[str, str]:
    """What is wrong, and how to mend it."""
    if isinstance(error, ThalwegError):
        what, _, mend = str(error).partition("; ")
        return what, mend
    what = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
    own = str(Path(__file__).parent.parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not frame.filename.startswith((own, sys.prefix, "<"))
    ]
    if frames:
        place = f"{frames[-1].filename}:{frames[-1].lineno}, in {frame_name(frames[-1].name)}"
        return what, f"it came out of your code at {place}; --debug shows the whole trace"
    return what, "this is not foreseen: --debug shows the trace, which is worth a report"


def frame_name(name: str) -> str:
    """A function's name as a person says it."""
    return "the module itself" if name == "<module>" else name
