import pytest


@pytest.fixture(autouse=True)
def _loaded_once(loaded_once: None) -> None:
    """No command of these tests loads nullface-tiny again."""
