"""Whole photos: find every face, replace it, finish the image, and verify the result.

No face leaves this module unprocessed. A face that still matches the person after every attempt
is covered. A photo without a face, or a result that does not account for every face, is an error.
"""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL.Image
import PIL.ImageOps

from .colour_profile import with_rebuilt_profile
from .face_covers import are_covered, cover_faces
from .face_edit import hide_faces
from .face_identity import DetectedFace, FaceLocation, same_person_similarity, similarity
from .face_masks import read_keep_mask
from .face_search import is_same_place, overlap, search_faces
from .face_target import FaceTarget, is_part_of_new_face, make_target, paste_all
from .photo_options import COVERS, MAX_SEED, FaceToSkip, PhotoOptions, keyed_number
from .photo_records import (
    AnonymizedPhoto,
    Box,
    FaceNotHiddenError,
    FaceRecord,
    FaceToSkipError,
    NoFaceFoundError,
    OptionError,
    OptionTypeError,
)
from .protocols import FaceAnalyser, NullFacePipeline


Face = TypeVar("Face", bound=FaceLocation)

# Added to the similarity of one person before a face is kept as the person of a reference photo.
# Replacing a face that should be kept costs little; keeping a wrong one costs a person's privacy.
CONSENT_MARGIN = 0.2

# Seed of albums without one. Otherwise the noise would follow from the embedding alone.
_PROCESS_SEED = secrets.randbelow(MAX_SEED)

# A box encloses a face if it holds this share of the face's box. Of two faces cheek to cheek, a
# box around one holds at most about half of the other.
ENCLOSED = 0.9

# Share of a replaced face's pixels that must differ from before: in its box, which shows some
# background, in its ellipse, and in the inner part with its features.
MIN_CHANGED_PIXELS = 0.1

# Modes that Pillow converts to RGB without visible loss.
_PHOTO_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


@dataclass(frozen=True, eq=False)
class FoundFaces:
    """The faces of a photo in three lists, by what happens to them; each face is in one list.

    Attributes:
        pixels (`np.ndarray`): (H, W, 3) uint8 RGB, the photo.
        replace, cover, keep (`tuple[DetectedFace, ...]`): `cover` are covered without an attempt.
    """

    pixels: np.ndarray
    replace: tuple[DetectedFace, ...]
    cover: tuple[DetectedFace, ...]
    keep: tuple[DetectedFace, ...]

    @property
    def all(self) -> list[DetectedFace]:
        """Every face, largest first."""
        return sorted([*self.replace, *self.cover, *self.keep], key=lambda face: face.area, reverse=True)


@dataclass(frozen=True, eq=False)
class FinishedFaces:
    """The finished image, and its faces by what was done.

    Attributes:
        pixels (`np.ndarray`): (H, W, 3) uint8 RGB.
        replaced (`tuple[FaceTarget, ...]`): replaced and verified.
        failed (`tuple[FaceTarget, ...]`): covered, because no attempt passed.
        covered (`tuple[DetectedFace, ...]`): too small, or found only in the result.
        cover_kind (`str`): one of `COVERS`.
    """

    pixels: np.ndarray
    replaced: tuple[FaceTarget, ...]
    failed: tuple[FaceTarget, ...]
    covered: tuple[DetectedFace, ...]
    cover_kind: str = COVERS[0]

    @property
    def covers(self) -> list[DetectedFace]:
        """All covered faces, in the order in which the covers are drawn."""
        return [*(target.face for target in self.failed), *self.covered]


def anonymize_photo(
    pipe: NullFacePipeline, photo: PIL.Image.Image | str | os.PathLike[str], options: PhotoOptions
) -> AnonymizedPhoto:
    """Body of `StableDiffusionNullFacePipeline.anonymize`; see there."""
    check_pipeline(pipe, options)
    pixels, icc_profile = read_pixels(photo)
    kept = None if options.keep_mask is None else read_keep_mask(options.keep_mask, pixels)
    found = find_faces(pipe, pixels, options)
    targets, seen = hide_faces(
        pipe, pixels, make_targets(pipe, found, options, kept), options, similarity_threshold(pipe, options)
    )
    finished = finish_faces(pipe, found, targets, seen, options)
    check_finished(found, finished)
    image = PIL.Image.fromarray(finished.pixels)
    if icc_profile is not None:
        image.info["icc_profile"] = icc_profile
    return AnonymizedPhoto(image=image, faces=records(found, finished))


def check_pipeline(pipe: NullFacePipeline, options: PhotoOptions) -> None:
    """Check that the pipeline has what the options need.

    Raises:
        RuntimeError: if the face models are not loaded, or lack a recognizer or a parser that is
            needed.
        OptionTypeError: if the verifier is not a recognizer.
        OptionError: if the threshold is above the recognizer's and `accept_recognizable` is not
            set, or if `people` is missing for the consistent identity.
    """
    if pipe.face_analyser is None:
        raise RuntimeError("No face models are loaded. Call `pipe.load_face_models()` first.")
    if not _recognizes(pipe.face_analyser):
        raise RuntimeError(
            "The face models have no recognizer, so no result can be verified. Load a pack that has one."
        )
    if options.verifier is not None and not _recognizes(options.verifier):
        raise OptionTypeError("verifier", "must be an InsightFace FaceAnalysis with a recognizer.")
    if options.keep and pipe.face_parser is None:
        raise RuntimeError("To keep regions, a face parser is needed. Call `pipe.load_face_models()` with one.")
    if options.identity == "consistent" and options.people is None:
        raise OptionError(
            "people", "is needed for the consistent identity: the embeddings that `find_people` returns."
        )
    suits = same_person_similarity(pipe.face_analyser)
    if similarity_threshold(pipe, options) > suits and not options.accept_recognizable:
        raise OptionError(
            "similarity_threshold",
            f"is {options.similarity_threshold}, but from {suits} on this recognizer takes two faces for one person. "
            "Lower it, or set `accept_recognizable`.",
        )


def _recognizes(analyser: FaceAnalyser) -> bool:
    return hasattr(getattr(analyser, "models", {}).get("recognition"), "get")


def similarity_threshold(pipe: NullFacePipeline, options: PhotoOptions) -> float:
    """Similarity from which on a result still matches the person: given, or of the recognizer."""
    if options.similarity_threshold is None:
        return same_person_similarity(pipe.face_analyser)
    return options.similarity_threshold


def consent_threshold(pipe: NullFacePipeline, options: PhotoOptions) -> float:
    """Similarity from which on a face is the person of a reference photo, and kept."""
    suits = same_person_similarity(pipe.face_analyser) + CONSENT_MARGIN
    return max(similarity_threshold(pipe, options), suits)


def read_pixels(photo: PIL.Image.Image | str | os.PathLike[str]) -> tuple[np.ndarray, bytes | None]:
    """A photo's pixels, upright, and a colour profile that holds nothing else of the photo.

    Returns:
        (H, W, 3) uint8 RGB, and an ICC profile made anew; `None` for sRGB.

    Raises:
        TypeError, ValueError: if it is not a photo or cannot be read.
    """
    if not isinstance(photo, (str, os.PathLike, PIL.Image.Image)):
        raise TypeError(f"`photo` must be a PIL image or a path, got {type(photo).__name__}.")
    try:
        if not isinstance(photo, PIL.Image.Image):
            photo = PIL.Image.open(photo)
        upright = PIL.ImageOps.exif_transpose(photo)
        upright.load()
    # For damaged and huge files, Pillow raises SyntaxError, struct.error, DecompressionBombError...
    except Exception as error:
        raise ValueError(f"The photo cannot be read: {error}.") from error
    if upright.mode.startswith("I;16"):
        # Pillow would clip values above 255.
        upright = PIL.Image.fromarray((np.asarray(upright) // 257).astype(np.uint8))
    if upright.mode not in _PHOTO_MODES:
        raise ValueError(f"Pillow's mode {upright.mode} has no defined white point. Convert the photo to RGB first.")
    own_profile = photo.info.get("icc_profile") if photo.mode in ("RGB", "RGBA", "P") else None
    image, icc_profile = with_rebuilt_profile(upright.convert("RGB"), own_profile)
    return np.array(image), icc_profile


def find_faces(pipe: NullFacePipeline, pixels: np.ndarray, options: PhotoOptions) -> FoundFaces:
    """Find every face of an (H, W, 3) uint8 RGB photo and sort them by what to do with them.

    Raises:
        NoFaceFoundError: if there is no face.
        ValueError: as `find_kept_faces`.
    """
    faces = search_faces(pipe.face_analyser, pixels)
    if not faces:
        raise NoFaceFoundError(
            "No face was found in the photo, so nothing was anonymized and nothing is returned. If it "
            "shows one, lower `detection_threshold`."
        )
    kept = find_kept_faces(pipe.face_analyser, faces, options.skip_faces, consent_threshold(pipe, options))
    replaced: list[DetectedFace] = []
    covered: list[DetectedFace] = []
    for face in faces:
        if face not in kept:
            (replaced if face.longer_side >= options.min_face else covered).append(face)
    return FoundFaces(pixels, tuple(replaced), tuple(covered), tuple(kept))


def read_references(analyser: FaceAnalyser, skip_faces: Sequence[FaceToSkip]) -> tuple[Box | np.ndarray, ...]:
    """Replace the reference photos among `skip_faces` by the embedding, (512,), of their face.

    Raises:
        ValueError: if a reference photo does not show exactly one face.
    """
    return tuple(
        _person(analyser, wanted) if isinstance(wanted, (PIL.Image.Image, Path)) else wanted for wanted in skip_faces
    )


def _person(analyser: FaceAnalyser, reference: PIL.Image.Image | Path) -> np.ndarray:
    faces = search_faces(analyser, read_pixels(reference)[0])
    if len(faces) != 1:
        name = reference if isinstance(reference, Path) else getattr(reference, "filename", "A photo")
        raise OptionError("skip_faces", f"needs reference photos with one face; {name} has {len(faces)}.")
    return faces[0].embedding


def find_kept_faces(
    analyser: FaceAnalyser, faces: list[DetectedFace], skip_faces: Sequence[FaceToSkip], threshold: float
) -> list[DetectedFace]:
    """The faces of people who agreed to be seen.

    Args:
        faces (`list[DetectedFace]`): all faces of the photo.
        skip_faces (`Sequence`): as in `PhotoOptions`.
        threshold (`float`): similarity from which on a face is the person of a reference photo. Of
            several such faces, only the most similar one is kept.

    Raises:
        FaceToSkipError: if a box does not belong to exactly one face.
        ValueError: if a reference photo does not show exactly one face. The photo itself may lack
            the person.
    """
    kept: list[DetectedFace] = []
    for wanted in read_references(analyser, skip_faces):
        if isinstance(wanted, np.ndarray):
            alike = [(similarity(face.embedding, wanted), number) for number, face in enumerate(faces)]
            found = [faces[number] for _, number in sorted(pair for pair in alike if pair[0] >= threshold)[-1:]]
        else:
            found = [face_in_box(faces, wanted)]
        kept += [face for face in found if face not in kept]
    return kept


def face_in_box(faces: list[DetectedFace], box: Sequence[float]) -> DetectedFace:
    """The face at a box (x0, y0, x1, y1), or the only one that a larger box encloses.

    Raises:
        FaceToSkipError: if no face or more than one matches. The message lists the faces with their
            numbers.
    """
    wanted = np.array(box)
    found = [face for face in faces if is_same_place(face.box, wanted)]
    found = found or [face for face in faces if enclosed_share(face.box, wanted) >= ENCLOSED]
    if len(found) != 1:
        count = "no face" if not found else f"{len(found)} faces"
        raise FaceToSkipError(f"The box {list(box)} of a face to keep matches {count}. {list_faces(faces)}")
    return found[0]


def numbered_face(faces: list[DetectedFace], number: int) -> DetectedFace:
    """A face by its number, counted from 1 in the order in which faces are found, as in previews.

    Raises:
        FaceToSkipError: if no face has this number. The message lists the faces with their numbers.
    """
    if not 1 <= number <= len(faces):
        raise FaceToSkipError(f"Face {number}, which should be kept, was not found. {list_faces(faces)}")
    return faces[number - 1]


def list_faces(faces: Sequence[FaceLocation]) -> str:
    """A sentence with the number and the box of each face."""
    listed = "; ".join(f"{number} at {_box_text(face)}" for number, face in enumerate(faces, start=1))
    return f"Choose one of the faces that were found: {listed}."


def enclosed_share(inner: np.ndarray, outer: np.ndarray) -> float:
    """Share of the area of a box (x0, y0, x1, y1) that lies in another one."""
    width, height = np.minimum(inner[2:], outer[2:]) - np.maximum(inner[:2], outer[:2])
    return float(max(width, 0.0) * max(height, 0.0) / np.prod(inner[2:] - inner[:2]))


def make_targets(
    pipe: NullFacePipeline, found: FoundFaces, options: PhotoOptions, keep_mask: np.ndarray | None
) -> list[FaceTarget]:
    """Cut out every face to replace, each with its own noise; a person of an album has one."""
    identities = known_identities(pipe.face_analyser, found.replace, options.people)
    seeds = [noise_seed(options.seed, number, person) for number, person in enumerate(identities)]
    return [
        make_target(pipe, found.pixels, face, found.all, options.keep, keep_mask, seed, identity)
        for face, seed, identity in zip(found.replace, seeds, identities)
    ]


def noise_seed(seed: int | None, number: int, person: np.ndarray | None) -> int | None:
    """Seed of a face's noise, by its number in the photo or by the person of an album.

    Args:
        seed (`int` or `None`): of `PhotoOptions`. For a person of an album, None stands for a
            secret seed of this process, which all photos of the album share.
        person (`np.ndarray` or `None`): (512,) float32, a row of `people`.
    """
    if person is None:
        return None if seed is None else (seed + number) % MAX_SEED
    return keyed_number(_PROCESS_SEED if seed is None else seed, person.tobytes()) % MAX_SEED


def known_identities(
    analyser: FaceAnalyser, faces: Sequence[DetectedFace], people: np.ndarray | None
) -> list[np.ndarray | None]:
    """Match the faces of a photo with `people`, at most one face a person; None without a match.

    Args:
        people (`np.ndarray` or `None`): (P, 512) float32, as in `PhotoOptions`.

    Returns:
        (512,) float32 each, a row of `people`.
    """
    known: dict[int, int] = {}
    same_person = same_person_similarity(analyser)
    pairs = [
        (similarity(face.embedding, person), number, index)
        for number, face in enumerate(faces)
        for index, person in enumerate(() if people is None else people)
    ]
    for alike, number, index in sorted(pairs, reverse=True):
        if alike >= same_person and number not in known and index not in known.values():
            known[number] = index
    return [people[known[number]] if people is not None and number in known else None for number in range(len(faces))]


def finish_faces(
    pipe: NullFacePipeline,
    found: FoundFaces,
    targets: list[FaceTarget],
    seen: list[DetectedFace],
    options: PhotoOptions,
) -> FinishedFaces:
    """Paste the new faces; cover failed faces and those found only in the result.

    Args:
        seen (`list[DetectedFace]`): faces found in the photo with the last attempts in it.

    Raises:
        FaceNotHiddenError: if a face could not be replaced and `on_failure` is "error".
    """
    threshold = similarity_threshold(pipe, options)
    replaced = [target for target in targets if target.is_replaced(threshold)]
    failed = [target for target in targets if not target.is_replaced(threshold)]
    if failed and options.on_failure == "error":
        raise FaceNotHiddenError(
            f"{len(failed)} face(s) still resemble the person after {options.max_attempts} attempt(s), at "
            f"{', '.join(_box_text(target.face) for target in failed)}; nothing is returned. Use a stronger "
            "`preset`, or cover such faces."
        )
    pixels = paste_all(found.pixels, replaced)
    # The finished image is searched as well, because the detector may have missed a face at first.
    if failed or not targets:
        seen = search_faces(pipe.face_analyser, pixels)
    new = [face for face in unmatched_faces(seen, found.all) if not is_part_of_new_face(face, replaced)]
    covered = [*found.cover, *new]
    finished = FinishedFaces(pixels, tuple(replaced), tuple(failed), tuple(covered), options.cover)
    return replace(finished, pixels=cover_faces(pixels, [face.box for face in finished.covers], options.cover))


def unmatched_faces(seen: Sequence[Face], known: Sequence[FaceLocation]) -> list[Face]:
    """Detections that match no known face. A known face accounts for the closest detection."""
    pairs = [(overlap(new.box, old.box), i, j) for i, new in enumerate(seen) for j, old in enumerate(known)]
    matched_seen: set[int] = set()
    matched_known: set[int] = set()
    for _, i, j in sorted(pairs, reverse=True):
        if i not in matched_seen and j not in matched_known and is_same_face(seen[i], known[j]):
            matched_seen.add(i)
            matched_known.add(j)
    return [face for i, face in enumerate(seen) if i not in matched_seen]


def is_same_face(first: FaceLocation, second: FaceLocation) -> bool:
    """Whether two boxes are of one face, even if its box has become somewhat larger or smaller."""
    return is_same_place(first.box, second.box)


def check_finished(found: FoundFaces, finished: FinishedFaces) -> None:
    """Raise unless the picture shows every face accounted for once, and every new face changed.

    Raises:
        FaceNotHiddenError: if not, so that nothing is returned.
    """
    done = [
        *(target.face for target in (*finished.replaced, *finished.failed)),
        *(face for face in finished.covered if any(face is old for old in found.cover)),
        *found.keep,
    ]
    if sorted(map(id, done)) != sorted(map(id, found.all)):
        raise FaceNotHiddenError("Not every face of the photo is accounted for; nothing is returned.")
    covered = are_covered(finished.pixels, [face.box for face in finished.covers], finished.cover_kind)
    left = [face for face, is_covered in zip(finished.covers, covered) if not is_covered]
    left += [target.face for target in finished.replaced if not is_changed(found.pixels, finished.pixels, target)]
    if left:
        boxes = ", ".join(map(_box_text, left))
        raise FaceNotHiddenError(f"The face(s) at {boxes} did not change as they should; nothing is returned.")


def is_changed(before: np.ndarray, after: np.ndarray, target: FaceTarget) -> bool:
    """Whether enough pixels of a face differ between two (H, W, 3) uint8 images, in every part."""
    x0, y0, x1, y1 = _pixel_box(target.face.box, before.shape)
    changed = (before[y0:y1, x0:x1] != after[y0:y1, x0:x1]).any(axis=-1)
    in_box = 1.0 if changed.size == 0 else float(changed.mean())
    return min(in_box, target.changed(after)) >= MIN_CHANGED_PIXELS


def _pixel_box(box: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1), end exclusive: the whole pixels of a box that lie in the image."""
    x0, y0 = np.clip(np.ceil(box[:2]), 0, shape[1::-1]).astype(int)
    x1, y1 = np.clip(np.floor(box[2:]) + 1, [x0, y0], [max(shape[1], x0), max(shape[0], y0)]).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


def _box_text(face: FaceLocation) -> str:
    return str(face.box.round().astype(int).tolist())


def records(found: FoundFaces, finished: FinishedFaces) -> tuple[FaceRecord, ...]:
    """Record of each face."""
    return (
        *(_record(target.face, "replaced", target.similarity, target.attempts) for target in finished.replaced),
        *(_record(target.face, "covered", _tried(target), target.attempts) for target in finished.failed),
        *(_record(face, "covered") for face in finished.covered),
        *(_record(face, "kept") for face in found.keep),
    )


def _tried(target: FaceTarget) -> float | None:
    return target.similarity if target.attempts else None


def _record(face: DetectedFace, method: str, similarity: float | None = None, attempts: int = 0) -> FaceRecord:
    x0, y0, x1, y1 = (float(value) for value in face.box)
    return FaceRecord((x0, y0, x1, y1), face.score, similarity, attempts, method)
