"""Which photos there are, and where each goes."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nullface_pipeline.photo_files import SUFFIXES


@dataclass(frozen=True)
class PhotoJob:
    """One photo and where its anonymized version goes."""

    source: Path
    output: Path


def find_photos(paths: Sequence[str | Path], output: Path) -> list[PhotoJob]:
    """Files by name or pattern and whole folders, whose trees are mirrored below `output`; each once.

    Of what a folder or a pattern such as `photos/**/*.jpg` names, only files with a photo's suffix are taken.

    Raises:
        ValueError: if a path does not exist, two photos would get one name, or a photo would be written over.
    """
    jobs: dict[Path, Path] = {}
    for path in (found for named in paths for found in _expand(named)):
        if path.is_dir():
            if output.resolve().is_relative_to(path.resolve()):
                raise ValueError(f"The output folder {output} lies in {path}, whose photos are read; name another.")
            found = [
                (source, output / source.relative_to(path)) for source in sorted(path.rglob("*")) if _is_photo(source)
            ]
        else:
            found = [(path, output / path.name)]
        for source, target in found:
            if jobs.get(target, source) != source:
                raise ValueError(f"{jobs[target]} and {source} would both be written to {target}; run them apart.")
            jobs[target] = source
    originals = {source.resolve() for source in jobs.values()}
    for target in jobs:
        if target.resolve() in originals:
            raise ValueError(f"{target} is one of the photos and would be written over; name another output folder.")
    return [PhotoJob(source, target) for target, source in jobs.items()]


def _expand(path: str | Path) -> list[Path]:
    """A path as it is, or the photos that a pattern matches: not every shell expands them."""
    if Path(path).exists():
        return [Path(path)]
    if not glob.has_magic(str(path)):
        raise ValueError(f"{path} does not exist.")
    found = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if _is_photo(Path(match))]
    if not found:
        raise ValueError(f"No photo matches {path}.")
    return found


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()
