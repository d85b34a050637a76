"""Exit codes of all commands."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended; of several, the highest counts.

    The table in `docs/folders.md` explains them to users.
    """

    ok = 0
    error = 1
    usage = 2
    covered = 3
    refused = 4
    leaked = 5
    stopped = 130
