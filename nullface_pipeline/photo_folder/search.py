"""Search for photos, and mapping to the paths of their results."""

import fnmatch
import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nullface_pipeline.photo_files import is_photo_name, kind_of_photo
from nullface_pipeline.runs.jobs import PhotoJob, planned_results
from nullface_pipeline.runs.paths import Identity, check_written, identities_above, identity


@dataclass(frozen=True)
class FoundPhotos:
    """Photos found by a search.

    Attributes:
        jobs (`list[PhotoJob]`): job of each photo.
        unsearched (`list[Path]`): subfolders that were not searched: links and unreadable folders.
        skipped (`dict[str, int]`): number of other visible files in searched folders, by lower-case
            suffix.
    """

    jobs: list[PhotoJob]
    unsearched: list[Path]
    skipped: dict[str, int] = field(default_factory=dict)


def find_photos(paths: Sequence[str | Path], output: Path) -> list[PhotoJob]:
    """Find photos by path, pattern or folder, whose tree is mirrored below `output`.

    Folders and patterns such as `photos/**/*.jpg` match only files with a photo's suffix. Links to
    folders are not followed.

    Raises:
        ValueError: if a path does not exist, or a result would replace a photo or another result.
    """
    return search_photos(paths, output).jobs


def search_photos(paths: Sequence[str | Path], output: Path, result: Path | None = None) -> FoundPhotos:
    """Find photos like `find_photos`, and report skipped files and folders.

    Args:
        result (`Path`, *optional*): file in `output` for the result, if there is one photo.
    """
    search = _Search()
    jobs: dict[Path, Path] = {}
    for path in paths:
        for source, target in _expand(path, output, search):
            if jobs.get(target, source) != source:
                raise ValueError(
                    f"{jobs[target]} and {source} would both be written to {target}: run them separately."
                )
            jobs[target] = source
    found = [PhotoJob(source, target, output) for target, source in jobs.items()]
    if result is not None:
        found = [PhotoJob(_single_source(found, result), result, output)]
    _check_apart(output, found, search)
    check_written(planned_results(found), [job.source for job in found])
    return FoundPhotos(found, sorted(set(search.unsearched)), dict(search.skipped))


def _single_source(jobs: list[PhotoJob], result: Path) -> Path:
    if len(jobs) != 1:
        raise ValueError(f"{result} is a file for one photo, but {len(jobs)} were given: choose a folder.")
    source = jobs[0].source
    if kind_of_photo(result.name) != kind_of_photo(source.name):
        raise ValueError(
            f"A result has the format of its photo: choose {result.with_suffix(source.suffix)}, not {result}."
        )
    return source


@dataclass
class _Search:
    """State of a search: searched folders by identity, unsearched folders and skipped files."""

    trees: dict[Identity, Path] = field(default_factory=dict)
    listed: dict[Identity, Path] = field(default_factory=dict)
    unsearched: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def _expand(path: str | Path, output: Path, search: _Search) -> list[tuple[Path, Path]]:
    """Photos of one argument, and their output paths."""
    if not str(path):
        raise ValueError("One of the paths is empty: give a photo, a folder or a pattern.")
    named = Path(path)
    if named.is_dir():
        return [(photo, output / photo.relative_to(named)) for photo in sorted(_walk(named, search))]
    # A broken link counts as a photo, which is refused later.
    if os.path.lexists(named):
        return [(named, output / named.name)]
    return [(photo, output / photo.name) for photo in _match(str(path), search)]


def _match(pattern: str, search: _Search) -> list[Path]:
    """Photos that match a pattern. Unlike Python's `glob`, it does not follow links."""
    if not glob.has_magic(pattern):
        raise ValueError(f"{pattern} does not exist.")
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    folder, wanted = Path(*parts[:fixed]), parts[fixed:]
    depth = None if "**" in wanted else len(wanted)
    walked = _walk(folder, search, depth)
    found = sorted(photo for photo in walked if _matches(photo.relative_to(folder).parts, wanted))
    if not found:
        raise ValueError(f"No photo matches {pattern}.")
    return found


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a pattern, part by part. `*` does not match hidden names."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        rest = pattern[1:] or ("*",)
        return _matches(parts, rest) or (len(parts) > 1 and parts[0][0] != "." and _matches(parts[1:], pattern))
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatch.fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _walk(folder: Path, search: _Search, depth: int | None = None) -> Iterator[Path]:
    """Yield every path below a folder that has a photo's suffix."""

    def add_unread(error: OSError) -> None:
        search.unsearched.append(Path(error.filename))

    for name, folders, files in os.walk(folder, onerror=add_unread, followlinks=False):
        root = Path(name)
        if (found := identity(root)) is not None:
            (search.trees if depth is None else search.listed).setdefault(found, root)
        yield from (root / file for file in files if is_photo_name(file))
        if depth is None:
            visible = (file for file in files if not is_photo_name(file) and not file.startswith("."))
            search.skipped.update(Path(file).suffix.lower() for file in visible)
        search.unsearched += [root / each for each in folders if (root / each).is_symlink()]
        if depth is not None and len(root.relative_to(folder).parts) + 1 >= depth:
            folders.clear()


def _check_apart(output: Path, jobs: list[PhotoJob], search: _Search) -> None:
    """Check that no result lies in a searched folder, by identity of the folders."""
    for folder in {output, *(job.output.parent for job in jobs)}:
        above = list(identities_above(folder))
        read = next((search.trees[each] for each in above if each in search.trees), None)
        # The folder of a pattern without `**` may contain the output folder, but not be it.
        read = read or search.listed.get(identity(folder) or (-1, -1))
        if read is not None:
            raise ValueError(f"The output folder {folder} lies in {read}, whose photos are read: choose another.")
