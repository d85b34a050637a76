"""Photos of originals and results, matched by their path without suffix."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nullface_pipeline.evaluation.baselines import BASELINES, VERSION
from nullface_pipeline.face_identity import FaceLocation
from nullface_pipeline.photo_files import PhotoFileError, is_photo_name, read_photo
from nullface_pipeline.photo_records import OptionError


# Names listed in an error.
NAMED = 5
# Largest common shift of the faces against their originals, in eye distances.
MAX_SHIFT = 0.5


@dataclass(frozen=True, eq=False)
class Picture:
    """Image that is loaded when its pixels are first used.

    Attributes:
        digest (`str`): hash of the file, or of everything from which the image is computed.
        make (`Callable`): loads (H, W, 3) uint8 RGB.
    """

    digest: str
    make: Callable[[], np.ndarray]

    @cached_property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright."""
        return self.make()

    def unread(self) -> "Picture":
        """The same image without loaded pixels."""
        return Picture(self.digest, self.make)


@dataclass(frozen=True)
class Method:
    """Anonymization method: a folder of its results, or the name of a baseline.

    Attributes:
        name (`str`): name in the tables.
        folder (`Path`, *optional*): folder of the results; None for a baseline.
        second_run (`Path`, *optional*): folder of results of the same photos with another seed.
        gallery_run (`Path`, *optional*): folder of results of the gallery's photos.
    """

    name: str
    folder: Path | None = None
    second_run: Path | None = None
    gallery_run: Path | None = None


def read_method(value: str) -> Method:
    """Parse `NAME=FOLDER` or the name of a baseline.

    Raises:
        ValueError: if it is neither.
    """
    name, separator, folder = value.partition("=")
    if not separator and name in BASELINES:
        return Method(name)
    if not (name and folder):
        raise OptionError("method", f"is {value!r}. Pass NAME=FOLDER or one of {', '.join(BASELINES)}.")
    if not Path(folder).is_dir():
        raise OptionError("method", f"is {value!r}, but {folder} is not a folder.")
    return Method(name, Path(folder))


def photos_by_name(folder: Path) -> dict[str, Path]:
    """Photos below a folder by their relative path without suffix, sorted.

    Raises:
        ValueError: if there are none, or if two have one name.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if is_photo_name(path.name) and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise ValueError(f"{found[name]} and {path} have the same name without suffix. Rename one.")
            found[name] = path
    if not found:
        raise ValueError(f"There are no photos in {folder}.")
    return found


def match_results(names: Sequence[str], folder: Path, skip_missing: bool = False) -> dict[str, Path]:
    """Match each original with its result.

    Args:
        names (`Sequence[str]`): names of the originals, see `photos_by_name`.
        skip_missing (`bool`): skip originals without a result instead of raising.

    Raises:
        ValueError: if results are missing and not skipped, or if there are none at all.
    """
    results = photos_by_name(folder)
    missing = [name for name in names if name not in results]
    if len(missing) == len(names):
        raise ValueError(
            f"No photo in {folder} has the name of an original ({listed(missing)}). Results are matched by their path "
            "without suffix."
        )
    if missing and not skip_missing:
        raise OptionError(
            "skip_missing",
            f"is off, but {folder} has no result for {len(missing)} of {len(names)} originals: {listed(missing)}.",
        )
    return {name: results[name] for name in names if name in results}


def listed(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


def file_picture(path: Path) -> Picture:
    """Photo in a file; loading raises ValueError if it cannot be read."""

    def make() -> np.ndarray:
        try:
            return np.asarray(read_photo(path).image)
        except PhotoFileError as error:
            raise ValueError(f"{path}: {error}") from error

    return Picture(hashlib.sha256(path.read_bytes()).hexdigest(), make)


def baseline_picture(name: str, original: Picture, face: FaceLocation) -> Picture:
    """Original with a baseline applied."""
    made_from = f"{original.digest} {name} {VERSION} {face.box.tolist()}"
    return Picture(
        hashlib.sha256(made_from.encode()).hexdigest(), lambda: BASELINES[name](original.unread().pixels, face)
    )


def check_size(name: str, method: str, original: tuple[int, int], result: tuple[int, int]) -> None:
    """Check that a result has the size of its original, whose landmarks are used in it.

    Raises:
        ValueError: if the sizes differ.
    """
    if original != result:
        raise ValueError(
            f"{method}: the result of {name} is {result[1]} x {result[0]} pixels, its original {original[1]} x "
            f"{original[0]}. Scale the results to the originals, or crop the originals like the results."
        )


def check_crop(method: str, originals: np.ndarray, results: np.ndarray) -> None:
    """Check that results have the crop of their originals.

    A different crop shifts all faces in the same direction; false detections in destroyed faces do
    not.

    Args:
        originals, results (`np.ndarray`): (N, 5, 2) landmarks of faces detected in both.

    Raises:
        ValueError: if the crops differ.
    """
    eyes = np.linalg.norm(originals[:, 1] - originals[:, 0], axis=1)
    shifts = (results - originals).mean(axis=1) / np.maximum(eyes, 1e-6)[:, None]  # (N, 2) eye distances
    usual = np.median(shifts, axis=0)
    length, spread = np.linalg.norm(usual), np.median(np.linalg.norm(shifts - usual, axis=1))
    if length > MAX_SHIFT and spread < length / 2:
        raise ValueError(
            f"{method}: faces lie {length:.1f} eye distances from those of the originals. The crops differ: crop the "
            "originals like the results."
        )
