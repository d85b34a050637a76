"""Progress callback of videos."""

from collections.abc import Callable


# Called with the step, the number done, and the total if it is known.
ProgressCallback = Callable[[str, int, int | None], None]


def no_progress(step: str, done: int, total: int | None) -> None:
    """Ignore progress."""
