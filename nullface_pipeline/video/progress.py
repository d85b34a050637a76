"""Progress of the work on a video."""

from collections.abc import Callable


# Told the step, how far it has come, and how far it goes if that is known.
ProgressCallback = Callable[[str, int, int | None], None]


def no_progress(step: str, done: int, total: int | None) -> None:
    """For whoever does not want to know."""
