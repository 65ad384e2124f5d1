"""The command line.

Flow:   `main` starts a plain `leveret serve` itself; everything else (help, errors, other commands) goes to `commands`.
Why:    A start must be quick: typer takes a tenth of one to import, and flags without a mistake do not need it.
"""

from __future__ import annotations

import gc
import sys

from broker.cli.exits import INTERRUPTED
from broker.cli.flags import plain_serve_flags


def main() -> None:
    """The console script."""
    flags = plain_serve_flags(sys.argv[1:])
    if flags is None:
        from broker.cli.commands import app

        sys.exit(app())
    # What is imported stays, and looking through it for garbage takes a twelfth of a start; `run` turns it on.
    gc.disable()
    try:
        from broker.cli.serve import start

        sys.exit(start(flags))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
