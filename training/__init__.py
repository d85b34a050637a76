"""How nullface-tiny was made. Not part of the installed package."""
