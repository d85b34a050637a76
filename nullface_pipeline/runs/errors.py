"""Exceptions that end a run, and those of libraries as a sentence."""


def is_broken_device(error: Exception) -> bool:
    """Whether no photo can be processed from here on: torch's error of a GPU that has stopped working."""
    # By its name, because torch takes seconds to import.
    return type(error).__name__ == "AcceleratorError"


def in_words(error: Exception) -> str:
    """Why a photo is refused that a library chokes on."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "It needs more memory than there is: shrink it, or lower `batch_faces`."
    return f"It could not be processed ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
