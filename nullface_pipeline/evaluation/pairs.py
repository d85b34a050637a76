"""Which photo belongs to which original: by the name without its suffix, below the two folders."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nullface_pipeline.evaluation.baselines import BASELINES, VERSION
from nullface_pipeline.face_identity import FaceLocation
from nullface_pipeline.photo_files import PhotoFileError, is_photo_name, read_photo


# Names that an error lists before it says "and so on".
NAMED = 5
# Eye distances by which faces may lie elsewhere than in their originals.
MAX_SHIFT = 0.5


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that is read or made when its pixels are first asked for; let go of it and they are gone.

    Attributes:
        digest (`str`): of the file's bytes, or of what the picture is made from.
        make (`Callable`): returns (H, W, 3) uint8 RGB.
    """

    digest: str
    make: Callable[[], np.ndarray]

    @cached_property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright."""
        return self.make()

    def unread(self) -> "Picture":
        """The same picture, without its pixels."""
        return Picture(self.digest, self.make)


@dataclass(frozen=True)
class Method:
    """A way of hiding faces: a folder of its results, or one of `BASELINES` by name.

    Attributes:
        name (`str`): in the tables.
        folder (`Path`, *optional*): of the results; None for a baseline.
        again (`Path`, *optional*): a folder of second results of the same photos, with another seed.
    """

    name: str
    folder: Path | None = None
    again: Path | None = None


def read_method(asked: str) -> Method:
    """`NAME=FOLDER`, or the name of a baseline.

    Raises:
        ValueError: if it is neither.
    """
    name, given, folder = asked.partition("=")
    if not given and name in BASELINES:
        return Method(name)
    if not (name and folder):
        raise ValueError(f"`method` is {asked!r}: give NAME=FOLDER, or one of {', '.join(BASELINES)}.")
    if not Path(folder).is_dir():
        raise ValueError(f"`method` is {asked!r}, but {folder} is no folder.")
    return Method(name, Path(folder))


def photos_by_name(folder: Path) -> dict[str, Path]:
    """The photos below a folder by their path in it without suffix, sorted.

    Raises:
        ValueError: if there are none, or two of one name.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if is_photo_name(path.name) and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise ValueError(f"{found[name]} and {path} have one name: photos are matched by it, rename one.")
            found[name] = path
    if not found:
        raise ValueError(f"There are no photos in {folder}.")
    return found


def match_results(names: Sequence[str], folder: Path, skip_missing: bool = False) -> dict[str, Path]:
    """The result of each original.

    Args:
        names: of the originals, see `photos_by_name`.
        skip_missing (`bool`): leave out originals without a result, instead of raising.

    Raises:
        ValueError: if results are missing and were not to be skipped, or there are none at all.
    """
    results = photos_by_name(folder)
    missing = [name for name in names if name not in results]
    if len(missing) == len(names):
        raise ValueError(
            f"Nothing in {folder} has the name of an original, {listed(missing)} for example: results are matched by "
            "their path without the suffix."
        )
    if missing and not skip_missing:
        raise ValueError(
            f"{folder} has no result for {len(missing)} of {len(names)} originals: {listed(missing)}. Add them, or leave "
            "them out with `skip_missing`; the table then says how many."
        )
    return {name: results[name] for name in names if name in results}


def listed(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


def file_picture(path: Path) -> Picture:
    """A photo in a file; raises ValueError when its pixels are asked for and it cannot be read."""

    def make() -> np.ndarray:
        try:
            return np.asarray(read_photo(path).image)
        except PhotoFileError as error:
            raise ValueError(f"{path}: {error}") from error

    return Picture(hashlib.sha256(path.read_bytes()).hexdigest(), make)


def baseline_picture(name: str, original: Picture, face: FaceLocation) -> Picture:
    """What a baseline makes of an original."""
    made_from = f"{original.digest} {name} {VERSION} {face.box.tolist()}"
    return Picture(
        hashlib.sha256(made_from.encode()).hexdigest(), lambda: BASELINES[name](original.unread().pixels, face)
    )


def check_size(name: str, method: str, original: tuple[int, int], result: tuple[int, int]) -> None:
    """That a result has its original's (H, W): landmarks of the one are used in the other.

    Raises:
        ValueError: if it has another.
    """
    if original != result:
        raise ValueError(
            f"{method}: the result of {name} is {result[1]} x {result[0]} pixels, its original {original[1]} x "
            f"{original[0]}. Compare pictures of one size and crop: scale the results, or cut the originals as they are."
        )


def check_crop(method: str, originals: np.ndarray, results: np.ndarray) -> None:
    """That faces do not all lie elsewhere than they lay, by (N, 5, 2) landmarks of both where a face was found in both.

    A method that destroys faces leaves patterns that are taken for one, here and there; another crop moves all alike.

    Raises:
        ValueError: if the crops differ: the originals' landmarks miss the results' faces.
    """
    eyes = np.linalg.norm(originals[:, 1] - originals[:, 0], axis=1)
    shifts = (results - originals).mean(axis=1) / np.maximum(eyes, 1e-6)[:, None]  # (N, 2) eye distances
    usual = np.median(shifts, axis=0)
    length, spread = np.linalg.norm(usual), np.median(np.linalg.norm(shifts - usual, axis=1))
    if length > MAX_SHIFT and spread < length / 2:
        raise ValueError(
            f"{method}: faces lie {length:.1f} eye distances from where they are in the originals. The crops differ: cut "
            "the originals as the results are cut, and name that folder as the originals."
        )
