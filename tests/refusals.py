"""Errors by what they are about, not by their wording."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nullface_pipeline.photo_records import OptionError


@contextmanager
def refused_option(option: str, error: type[OptionError] = OptionError) -> Iterator[None]:
    """Check that the block raises an error about this option.

    Args:
        error (`type[OptionError]`): `OptionTypeError` for a value of a wrong type.
    """
    with pytest.raises(error) as caught:
        yield
    assert caught.value.option == option
