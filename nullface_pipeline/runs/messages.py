"""Error messages: an exception as one printable line, with the names of command-line options."""

import errno
import re
from dataclasses import fields

from nullface_pipeline.model_options import ModelOptions
from nullface_pipeline.photo_options import PhotoOptions


MAX_LENGTH = 500

# Fields that are options of the commands.
OPTION_FIELDS = frozenset(each.name for schema in (PhotoOptions, ModelOptions) for each in fields(schema))

# Exceptions whose text is clear without their type.
_SELF_EXPLANATORY = (ImportError, OSError, RuntimeError, TypeError, ValueError)


def format_error(error: BaseException, name_file: bool = True) -> str:
    """Format an exception as one printable line of at most 500 characters, without a full stop.

    Args:
        name_file (`bool`): whether to name the file of an `OSError`.
    """
    text = printable(" ".join(_error_text(error, name_file).split())).rstrip(".")
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"


def _error_text(error: BaseException, name_file: bool) -> str:
    # torch.OutOfMemoryError is compared by name, because importing torch takes seconds.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "There is not enough memory: shrink the picture, or lower `batch_faces`"
    if isinstance(error, OSError) and error.strerror:
        file = str(error.filename) if name_file and error.filename is not None else ""
        if error.errno == errno.EFBIG:
            return f"{file or 'The file'} would exceed the file size limit of this shell: raise it with `ulimit -f`"
        return f"{file}: {error.strerror}" if file else error.strerror
    name, text = type(error).__name__, str(error).strip()
    is_clear = isinstance(error, _SELF_EXPLANATORY) or type(error).__module__.startswith("nullface_pipeline.")
    return text if text and is_clear else f"{name}: {text}".removesuffix(": ")


def option_name(field: str) -> str:
    """Name of the command-line option of a field: `--min-face` for `min_face`."""
    return "--" + {"skip_faces": "skip_face"}.get(field, field).replace("_", "-")


def with_option_names(message: str) -> str:
    """Replace option fields in backticks by their options: `--min-face` for `min_face`."""
    return re.sub(r"`(\w+)`", lambda field: option_name(field[1]) if field[1] in OPTION_FIELDS else field[0], message)


def printable(text: str) -> str:
    """Replace unprintable characters with their escape sequences."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def is_broken_device(error: Exception) -> bool:
    """Whether a GPU has stopped working, so that no other photo can be processed."""
    # Compared by name, because importing torch takes seconds.
    return type(error).__name__ == "AcceleratorError"
