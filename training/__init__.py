"""Training of nullface-tiny. Not part of the installed package."""
