"""Exit codes of all commands."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit code of a command; the highest if several apply. See `docs/reference/exit-codes.md`."""

    ok = 0
    error = 1
    usage = 2
    covered = 3
    refused = 4
    leaked = 5
    stopped = 130
