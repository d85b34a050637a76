"""Griffe extension: docstrings in the style of diffusers, for the API reference.

The type "`int`, *optional*, defaults to `1`" becomes "int": MkDocs shows it as code, with the
default of the signature. [`Name`] becomes a link if the page has an entry of that name, and code
otherwise.
"""

import inspect
import re
from pathlib import Path
from typing import Any

import griffe

from nullface_pipeline import PhotoOptions


PAGE = Path(__file__).parent / "reference" / "python.md"
ENTRIES = {path.rpartition(".")[2]: path for path in re.findall(r"^::: (\S+)$", PAGE.read_text(), re.MULTILINE)}


class DiffusersDocstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            # This docstring is completed when the module is imported.
            text = inspect.getdoc(PhotoOptions) if obj.name == "PhotoOptions" else obj.docstring.value
            obj.docstring.value = plain_docstring(text or "")


def plain_docstring(text: str) -> str:
    """A docstring as Griffe's parser for Google's style takes it."""
    named = r"^( +)(\[?`[^:\n]*`\]?|\w+(?:,\s+\w+)+):(?=\s)"
    text = re.sub(named, lambda found: f"{found[1]}{unmarked(found[2])}:", text, flags=re.MULTILINE)
    typed = r"^( +)(\w+(?:, \w+)*) \(((?:[^()]|\([^()]*\))*)\)(?::(?=\s)|$)"
    text = re.sub(typed, lambda found: f"{found[1]}{found[2]} ({unmarked(found[3])}):", text, flags=re.MULTILINE)
    return re.sub(r"\[`~?([\w.]+)`\](?![(\[])", link, text)


def unmarked(words: str) -> str:
    words = re.sub(r"[`*]|\[(?=`)|(?<=`)\]|~(?:\w+\.)?", "", words)
    return re.sub(r"\s+", " ", re.sub(r", optional\b.*", "", words, flags=re.DOTALL))


def link(found: re.Match[str]) -> str:
    name = found[1].rpartition(".")[2]
    return f"[`{name}`][{ENTRIES[name]}]" if name in ENTRIES else f"`{found[1]}`"
