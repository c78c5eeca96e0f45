"""The command line: parses, calls, prints. What is decided is decided elsewhere.

Results go to standard output, one JSON document with `--json`; progress goes to standard error, and only to a
terminal. Exit code 0, or 1 for a measured failure, or 2 for wrong usage with the mend in one line.
"""

from __future__ import annotations

import os
import sys

from thalweg.cli import starting, measuring, trying, folders  # isort: skip - the order of the help
from thalweg.cli.base import app
from thalweg.errors import told
from thalweg.show.folders import shown

__all__ = ["app", "folders", "main", "measuring", "starting", "trying"]


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
        what, mend = told(error)
        print(f"thalweg: {shown(what)}", file=sys.stderr)
        if mend:
            print(f"         {shown(mend)}", file=sys.stderr)
        raise SystemExit(2) from None
