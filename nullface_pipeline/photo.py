"""Whole photos: find every face, anonymize the aligned crops in batches, paste them back, and make sure it worked.

No face leaves this module as it came: what still resembles the person after every attempt is covered by a plain patch,
and a photo in which nothing is found is an error.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from .face_edit import cover_face, hide_faces, make_target, paste_all
from .face_identity import DetectedFace, same_person_similarity, similarity
from .face_masks import read_keep_mask
from .face_parsing import check_kept_regions
from .face_search import SAME_BOX, lies_in, overlap, search_faces
from .photo_records import AnonymizedPhoto, FaceNotHiddenError, FaceRecord, NoFaceFoundError


# The paper's knobs, set together. Settings given besides take precedence.
PRESETS: dict[str, dict[str, float]] = {
    "light": {"skip": 0.8, "guidance_scale": 7.5},
    "standard": {"skip": 0.7, "guidance_scale": 10.0},
    "strong": {"skip": 0.6, "guidance_scale": 15.0},
}


SETTINGS = (
    "num_inference_steps",
    "skip",
    "guidance_scale",
    "identity_scale",
    "identity_angle",
    "mask_start",
    "eta",
    "ip_adapter_scale",
    "inversion_batch_size",
)


# How much more than what is taken for the same person a face must resemble a reference photo to be left alone. To hide
# somebody who agreed to be seen costs little, the contrary costs a person's privacy.
CONSENT_MARGIN = 0.2


def anonymize_photo(
    pipe: Any,
    photo: PIL.Image.Image,
    keep: Sequence[str],
    keep_mask: PIL.Image.Image | None,
    seed: int | None,
    preset: str,
    skip_faces: Sequence[Any],
    min_face: float,
    similarity_threshold: float | None,
    max_attempts: int,
    on_failure: str,
    judge: Any | None,
    identity_seed: int | None,
    batch_faces: int,
    settings: dict[str, Any],
) -> AnonymizedPhoto:
    """Body of `StableDiffusionNullFacePipeline.anonymize`; see there."""
    check_options(
        pipe,
        keep=keep,
        preset=preset,
        similarity_threshold=similarity_threshold,
        max_attempts=max_attempts,
        on_failure=on_failure,
        batch_faces=batch_faces,
        **settings,
    )
    threshold = same_person_similarity(pipe.face_analyser) if similarity_threshold is None else similarity_threshold
    pixels = read_pixels(photo)
    faces = search_faces(pipe.face_analyser, pixels)
    if not faces:
        raise NoFaceFoundError(
            "No face was found in the photo, so nothing was anonymized and nothing is returned. Lower the detection "
            "threshold in `load_face_models` if it shows one."
        )
    consent_threshold = max(threshold, same_person_similarity(pipe.face_analyser) + CONSENT_MARGIN)
    spared = find_spared_faces(pipe.face_analyser, faces, skip_faces, consent_threshold)
    large = [face for face in faces if face not in spared and face.longer_side >= min_face]
    small = [face for face in faces if face not in spared and face.longer_side < min_face]
    kept = None if keep_mask is None else read_keep_mask(keep_mask, pixels)
    targets = [
        make_target(pipe, pixels, face, faces, keep, kept, None if seed is None else seed + number)
        for number, face in enumerate(large)
    ]
    targets, seen = hide_faces(
        pipe,
        pixels,
        targets,
        [pipe.face_analyser] if judge is None else [pipe.face_analyser, judge],
        threshold,
        max_attempts,
        identity_seed,
        batch_faces,
        {**PRESETS[preset], **settings},
    )
    hidden = [target for target in targets if target.result is not None and target.similarity < threshold]
    failed = [target for target in targets if target not in hidden]
    if failed and on_failure == "error":
        boxes = ", ".join(str(target.face.box.round().astype(int).tolist()) for target in failed)
        raise FaceNotHiddenError(
            f"{len(failed)} face(s) still resemble the person after {max_attempts} attempt(s), at {boxes}; nothing is "
            "returned. Use a stronger setting, or `on_failure='cover'`."
        )
    result = paste_all(pixels, hidden)
    # A second look, at the finished picture: what the detector missed at first must not get through either.
    if failed or not targets:
        seen = search_faces(pipe.face_analyser, result)
    unseen = [face for face in seen if not is_among(face, faces)]
    for face in [*(target.face for target in failed), *small, *unseen]:
        result = cover_face(result, face.box)

    image = PIL.Image.fromarray(result)
    if photo.mode in ("RGB", "RGBA", "P") and "icc_profile" in photo.info:
        image.info["icc_profile"] = photo.info["icc_profile"]
    records = [
        *(_record(target.face, target.similarity, target.attempts, "nullface") for target in hidden),
        *(_record(target.face, target.similarity, target.attempts, "covered") for target in failed),
        *(_record(face, None, 0, "covered") for face in [*small, *unseen]),
        *(_record(face, None, 0, "spared") for face in spared),
    ]
    return AnonymizedPhoto(image=image, faces=tuple(records))


def read_pixels(photo: PIL.Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a photo, turned upright; raises ValueError where it cannot be decoded."""
    if not isinstance(photo, PIL.Image.Image):
        raise ValueError(f"`photo` must be a PIL image, got {type(photo).__name__}; open files with PIL.Image.open.")
    try:
        return np.array(PIL.ImageOps.exif_transpose(photo).convert("RGB"))
    except OSError as error:
        raise ValueError(f"The photo cannot be read: {error}.") from error


def check_options(
    pipe: Any,
    keep: Sequence[str] = (),
    preset: str = "standard",
    similarity_threshold: float | None = None,
    max_attempts: int = 3,
    on_failure: str = "cover",
    batch_faces: int = 8,
    min_face: float = 0.0,
    **settings: Any,
) -> None:
    """What `anonymize` demands of the pipeline and of its options, whatever the photo.

    Raises:
        ValueError, RuntimeError: as `StableDiffusionNullFacePipeline.anonymize`.
    """
    if pipe.face_analyser is None:
        raise RuntimeError("No face models are loaded. Call `pipe.load_face_models()` first.")
    if "recognition" not in getattr(pipe.face_analyser, "models", {}):
        raise RuntimeError("The face models hold no recognizer, without which no result can be verified.")
    check_kept_regions(keep)
    if keep and pipe.face_parser is None:
        raise RuntimeError("`keep` needs a face parser. Call `pipe.load_face_models()` with one.")
    if preset not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}, got {preset!r}.")
    if similarity_threshold is not None and not -1.0 <= similarity_threshold <= 1.0:
        raise ValueError(f"`similarity_threshold` is a cosine in [-1, 1], got {similarity_threshold}.")
    if on_failure not in ("cover", "error"):
        raise ValueError(f"`on_failure` must be 'cover' or 'error', got {on_failure!r}.")
    if max_attempts < 1 or batch_faces < 1:
        raise ValueError("`max_attempts` and `batch_faces` must be at least 1.")
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown:
        raise ValueError(f"`anonymize` does not take {unknown}; its settings are {', '.join(SETTINGS)}, and `seed`.")


def find_spared_faces(
    analyser: Any, faces: list[DetectedFace], skip_faces: Sequence[Any], threshold: float
) -> list[DetectedFace]:
    """The faces of people who agreed to be seen.

    Args:
        faces (`list[DetectedFace]`): all faces of the photo.
        skip_faces (`Sequence`): boxes (x0, y0, x1, y1) in photo pixels, or reference photos (`PIL.Image.Image`) that
            show one person each.
        threshold (`float`): similarity from which on a face is the person of a reference photo. Of several such faces
            only the most similar one is.

    Raises:
        ValueError: if no face is at a box, or a reference photo does not show exactly one face. A person of a
            reference photo who is not in this photo is no error.
    """
    spared: list[DetectedFace] = []
    for wanted in skip_faces:
        if isinstance(wanted, PIL.Image.Image):
            references = search_faces(analyser, read_pixels(wanted))
            if len(references) != 1:
                raise ValueError(
                    f"A reference photo of `skip_faces` must show one face; {len(references)} were found."
                )
            found = [face for face in faces if similarity(face.embedding, references[0].embedding) >= threshold]
            found = sorted(found, key=lambda face: similarity(face.embedding, references[0].embedding))[-1:]
        else:
            found = sorted(faces, key=lambda face: overlap(face.box, wanted), reverse=True)[:1]
            if overlap(found[0].box, wanted) < SAME_BOX:
                boxes = ", ".join(str(face.box.round().astype(int).tolist()) for face in faces)
                raise ValueError(f"`skip_faces` names the box {list(wanted)}, but the faces are at {boxes}.")
        spared += [face for face in found if face not in spared]
    return spared


def is_among(face: DetectedFace, faces: Sequence[DetectedFace]) -> bool:
    """Whether a face lies on one of those known, though its box may have become somewhat larger or smaller."""
    return any(
        (lies_in(face.box, other.box) or lies_in(other.box, face.box)) and 0.25 < face.area / other.area < 4.0
        for other in faces
    )


def _record(face: DetectedFace, similarity: float | None, attempts: int, method: str) -> FaceRecord:
    x0, y0, x1, y1 = (float(value) for value in face.box)
    return FaceRecord((x0, y0, x1, y1), face.score, similarity, attempts, method)
