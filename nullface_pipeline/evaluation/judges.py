"""Recognizers that say who is in a picture."""


class MissingModelError(Exception):
    """A model that is not there. The message starts with "needs" and says what, and where it comes from."""
