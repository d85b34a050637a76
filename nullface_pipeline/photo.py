"""Whole photos: find every face, anonymize the aligned crops in batches, paste them back, and make sure it worked.

No face leaves this module as it came: what still resembles the person after every attempt is covered by a plain patch,
and a photo in which nothing is found is an error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from diffusers.utils import logging

from .face_crops import FaceCrop, edge_feather
from .face_identity import (
    DetectedFace,
    embed_face,
    same_person_similarity,
    similarity,
    turned_identity,
)
from .face_parsing import FACE_REGIONS, anonymization_mask, check_kept_regions, region_mask
from .face_search import SAME_BOX, lies_in, overlap, search_faces


# The paper's knobs, set together. Settings given besides take precedence.
STRENGTHS: dict[str, dict[str, float]] = {
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

# How far beyond the parsed face its mask reaches, as a share of the crop: the parser's edge is the face's own contour.
# The wider one is for faces that are tried again.
MASK_MARGIN, WIDER_MARGIN = 0.02, 0.06


class NoFaceFoundError(ValueError):
    """A photo shows no face, as far as the detector can tell."""


class FaceNotHiddenError(RuntimeError):
    """A face still resembles the person after every attempt, and redacting it was not wanted."""


@dataclass(frozen=True)
class FaceRecord:
    """What was done to one face. Holds neither its embedding nor its pixels.

    Attributes:
        box (`tuple[float, float, float, float]`): x0, y0, x1, y1 in photo pixels.
        score (`float`): detection score in [0, 1].
        similarity (`float` or `None`): cosine between the embeddings before and after, in [-1, 1]; 1 is the same
            face. None where nothing was compared.
        attempts (`int`): how often the face was anonymized.
        method (`str`): "nullface", "redacted" or "left alone".
    """

    box: tuple[float, float, float, float]
    score: float
    similarity: float | None
    attempts: int
    method: str


@dataclass(frozen=True)
class AnonymizedPhoto:
    """The photo with every face replaced, as a new RGB image without metadata, and a record of each face."""

    image: PIL.Image.Image
    faces: tuple[FaceRecord, ...]


@dataclass(frozen=True, eq=False)
class FaceTarget:
    """One face to hide, and the latest attempt at it.

    Attributes:
        face (`DetectedFace`): as it was in the photo.
        crop (`FaceCrop`): from the photo to the model's square.
        aligned (`np.ndarray`): (size, size, 3) uint8 RGB, the crop of the photo.
        mask (`np.ndarray`): (size, size) float32 in [0, 1], what may change.
        wider_mask (`np.ndarray`): the same for faces that are tried again.
        seed (`int` or `None`): of its noise.
        attempts (`int`): made so far.
        result (`np.ndarray` or `None`): (size, size, 3) uint8 RGB, of the latest attempt.
        similarity (`float`): of the latest attempt to the person; infinite before the first.
    """

    face: DetectedFace
    crop: FaceCrop
    aligned: np.ndarray
    mask: np.ndarray
    wider_mask: np.ndarray
    seed: int | None
    attempts: int = 0
    result: np.ndarray | None = None
    similarity: float = math.inf

    def paste(self, pixels: np.ndarray) -> np.ndarray:
        """Put the latest attempt into (H, W, 3) uint8 `pixels`; returns a new array."""
        if self.result is None:
            return pixels
        return self.crop.paste(pixels, self.result, self.mask * edge_feather(self.crop.size))


def anonymize_photo(
    pipe: Any,
    photo: PIL.Image.Image,
    keep: Sequence[str],
    keep_mask: PIL.Image.Image | None,
    seed: int | None,
    strength: str,
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
        strength=strength,
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
        {**STRENGTHS[strength], **settings},
    )
    hidden = [target for target in targets if target.result is not None and target.similarity < threshold]
    failed = [target for target in targets if target not in hidden]
    if failed and on_failure == "error":
        boxes = ", ".join(str(target.face.box.round().astype(int).tolist()) for target in failed)
        raise FaceNotHiddenError(
            f"{len(failed)} face(s) still resemble the person after {max_attempts} attempt(s), at {boxes}; nothing is "
            "returned. Use a stronger setting, or `on_failure='redact'`."
        )
    result = paste_all(pixels, hidden)
    # A second look, at the finished picture: what the detector missed at first must not get through either.
    if failed or not targets:
        seen = search_faces(pipe.face_analyser, result)
    unseen = [face for face in seen if not is_among(face, faces)]
    for face in [*(target.face for target in failed), *small, *unseen]:
        result = redact(result, face.box)

    image = PIL.Image.fromarray(result)
    if photo.mode in ("RGB", "RGBA", "P") and "icc_profile" in photo.info:
        image.info["icc_profile"] = photo.info["icc_profile"]
    records = [
        *(_record(target.face, target.similarity, target.attempts, "nullface") for target in hidden),
        *(_record(target.face, target.similarity, target.attempts, "redacted") for target in failed),
        *(_record(face, None, 0, "redacted") for face in [*small, *unseen]),
        *(_record(face, None, 0, "left alone") for face in spared),
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


def read_keep_mask(mask: PIL.Image.Image, pixels: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [0, 1]; raises ValueError on another size than the photo's."""
    if mask.size != (pixels.shape[1], pixels.shape[0]):
        raise ValueError(
            f"`keep_mask` must have the size of the upright photo, {pixels.shape[1]} x {pixels.shape[0]}, got "
            f"{mask.size[0]} x {mask.size[1]}."
        )
    return np.asarray(mask.convert("L"), dtype=np.float32) / 255.0


def check_options(
    pipe: Any,
    keep: Sequence[str] = (),
    strength: str = "standard",
    similarity_threshold: float | None = None,
    max_attempts: int = 3,
    on_failure: str = "redact",
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
    if strength not in STRENGTHS:
        raise ValueError(f"`strength` must be one of {', '.join(STRENGTHS)}, got {strength!r}.")
    if similarity_threshold is not None and not -1.0 <= similarity_threshold <= 1.0:
        raise ValueError(f"`similarity_threshold` is a cosine in [-1, 1], got {similarity_threshold}.")
    if on_failure not in ("redact", "error"):
        raise ValueError(f"`on_failure` must be 'redact' or 'error', got {on_failure!r}.")
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


def make_target(
    pipe: Any,
    pixels: np.ndarray,
    face: DetectedFace,
    faces: list[DetectedFace],
    keep: Sequence[str],
    keep_mask: np.ndarray | None,
    seed: int | None,
) -> FaceTarget:
    """Cut one of several faces out of (H, W, 3) uint8 `pixels` and decide what of it may change."""
    crop = FaceCrop.from_landmarks(face.landmarks, pipe.unet.config.sample_size * pipe.vae_scale_factor)
    aligned = crop.crop_image(pixels)
    mine: np.ndarray = nearest_face(crop, face, faces).astype(np.float32)
    if keep_mask is not None:
        mine = mine * (1.0 - crop.crop_mask(keep_mask))
    mask, wider_mask = face_masks(pipe.face_parser, aligned, crop.points_to_crop(face.landmarks), keep)
    return FaceTarget(face, crop, aligned, mine * mask, mine * wider_mask, seed)


def face_masks(
    parser: Any | None, aligned: np.ndarray, landmarks: np.ndarray, keep: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The parsed face without what is kept, or an ellipse where the parser does not find the face; and a wider one.

    Args:
        aligned (`np.ndarray`): (size, size, 3) uint8 RGB.
        landmarks (`np.ndarray`): (5, 2) in the crop.

    Returns:
        Two `np.ndarray`: (size, size) float32 in [0, 1].
    """
    ellipse = face_ellipse(landmarks, aligned.shape[0])
    wider_ellipse = face_ellipse(landmarks, aligned.shape[0], margin=WIDER_MARGIN)
    if parser is None:
        return ellipse, wider_ellipse
    labels = parser(aligned)
    if region_mask(labels, parser.labels, FACE_REGIONS)[ellipse > 0.5].mean() < 0.5:
        if keep:
            logging.get_logger(__name__).warning("A face's regions were not found; nothing of it is kept.")
        return ellipse, wider_ellipse
    return (
        anonymization_mask(labels, parser.labels, keep, margin=MASK_MARGIN),
        anonymization_mask(labels, parser.labels, keep, margin=WIDER_MARGIN),
    )


def nearest_face(crop: FaceCrop, face: DetectedFace, faces: list[DetectedFace]) -> np.ndarray:
    """(size, size) bool, the part of the crop that is nearer to this face than to any other, in units of face size.

    Neighbours' skin in a crop must neither take this face's identity nor be pasted back as it was.
    """
    y, x = np.mgrid[: crop.size, : crop.size]
    points = np.stack([x, y], axis=-1).astype(np.float64)  # (size, size, 2)

    def distance(other: DetectedFace) -> np.ndarray:
        landmarks = crop.points_to_crop(other.landmarks)
        centre = landmarks.mean(axis=0)
        return np.linalg.norm(points - centre, axis=-1) / np.linalg.norm(landmarks - centre, axis=-1).mean()

    own = distance(face)
    return np.all([own <= distance(other) for other in faces], axis=0)


def hide_faces(
    pipe: Any,
    pixels: np.ndarray,
    targets: list[FaceTarget],
    analysers: list[Any],
    threshold: float,
    max_attempts: int,
    identity_seed: int | None,
    batch_faces: int,
    settings: dict[str, Any],
) -> tuple[list[FaceTarget], list[DetectedFace]]:
    """Anonymize the targets, and those that still resemble the person again, stronger each time.

    Returns:
        The targets, and all faces found in the photo with the last attempts in it.
    """
    seen: list[DetectedFace] = []
    for attempt in range(max_attempts):
        pending = [index for index, target in enumerate(targets) if target.similarity >= threshold]
        if not pending:
            break
        if attempt > 0:
            targets = [replace(t, mask=t.wider_mask) if i in pending else t for i, t in enumerate(targets)]
        for start in range(0, len(pending), batch_faces):
            batch = pending[start : start + batch_faces]
            results = run_pipeline(pipe, [targets[i] for i in batch], identity_seed, stronger(settings, attempt))
            for index, result in zip(batch, results):
                targets[index] = replace(targets[index], result=result, attempts=attempt + 1)
        finished = paste_all(pixels, targets)
        seen = search_faces(analysers[0], finished)
        for index in pending:
            closest = closest_similarity(analysers, pixels, finished, targets[index].face, seen)
            targets[index] = replace(targets[index], similarity=closest)
    return targets, seen


def stronger(settings: dict[str, Any], attempt: int) -> dict[str, Any]:
    """Settings of the n-th attempt, counted from 0: more guidance, a longer embedding, less skipped."""
    if attempt == 0:
        return settings
    return {
        **settings,
        "guidance_scale": settings["guidance_scale"] * (1.0 + 0.5 * attempt),
        "identity_scale": settings.get("identity_scale", 1.0) * (1.0 + 0.25 * attempt),
        "skip": max(0.0, settings["skip"] - 0.1 * attempt),
    }


def run_pipeline(
    pipe: Any, targets: list[FaceTarget], identity_seed: int | None, settings: dict[str, Any]
) -> list[np.ndarray]:
    """One batch of faces through the pipeline; returns (size, size, 3) uint8 RGB each."""
    embeds = torch.from_numpy(np.stack([target.face.embedding for target in targets]))
    if identity_seed is not None:
        embeds = turned_identity(embeds, identity_seed)
    # One generator a face, so that a face's result does not depend on which others there are.
    generator = [torch.Generator().manual_seed(t.seed + 1000 * t.attempts) for t in targets if t.seed is not None]
    images = pipe(
        [PIL.Image.fromarray(target.aligned) for target in targets],
        identity_embeds=embeds,
        mask_image=[mask_picture(target.mask) for target in targets],
        generator=generator or None,
        **settings,
    ).images
    return [np.asarray(image) for image in images]


def mask_picture(mask: np.ndarray) -> PIL.Image.Image:
    """An (H, W) mask in [0, 1] as an 8-bit grey picture."""
    return PIL.Image.fromarray((255 * mask).round().astype(np.uint8))


def paste_all(pixels: np.ndarray, targets: list[FaceTarget]) -> np.ndarray:
    """The photo with every attempt in it, large faces last: where two overlap, the larger is usually in front."""
    for target in sorted(targets, key=lambda target: target.face.area):
        pixels = target.paste(pixels)
    return pixels


def closest_similarity(
    analysers: list[Any], before: np.ndarray, after: np.ndarray, face: DetectedFace, seen: list[DetectedFace]
) -> float:
    """The highest similarity that any of the recognizers sees between a face before and after.

    The face is embedded at its old landmarks and, where it is among the faces `seen` in the picture `after`, at its new
    ones: a misplaced crop must not pass for a new identity.
    """
    redetected = [new.landmarks for new in seen if overlap(new.box, face.box) > SAME_BOX]
    similarities = []
    for analyser in analysers:
        original = embed_face(analyser, before, face.landmarks)
        for landmarks in [face.landmarks, *redetected]:
            similarities.append(similarity(original, embed_face(analyser, after, landmarks)))
    return max(similarities)


def redact(pixels: np.ndarray, box: np.ndarray, margin: float = 0.15) -> np.ndarray:
    """Cover a face by an ellipse of its mean colour, from which nothing can be reconstructed; returns a new array."""
    x0, y0, x1, y1 = (float(value) for value in box)
    centre, axes = ((x0 + x1) / 2, (y0 + y1) / 2), (x1 - x0, y1 - y0)
    covered = np.zeros(pixels.shape[:2], dtype=np.uint8)
    # An ellipse around the box's corners, so that the whole box and a margin are covered.
    axes = (axes[0] * (2**0.5 + margin), axes[1] * (2**0.5 + margin))
    cv2.ellipse(covered, (centre, axes, 0.0), 255, -1)
    result = pixels.copy()
    if covered.any():
        result[covered > 0] = pixels[covered > 0].mean(axis=0).round().astype(np.uint8)
    return result


def face_ellipse(landmarks: np.ndarray, size: int, margin: float = 0.0) -> np.ndarray:
    """Soft ellipse from brow to chin and ear to ear around (5, 2) landmarks in the crop; (size, size) float32.

    Args:
        margin (`float`): how much farther it reaches, as a share of the crop.
    """
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    centre = eyes + 0.45 * (mouth - eyes)
    eye_distance, face_height = np.hypot(*(landmarks[1] - landmarks[0])), np.hypot(*(mouth - eyes))
    axes = max(1.15 * eye_distance, 0.9 * face_height), max(1.75 * face_height, 1.3 * eye_distance)
    angle = -np.degrees(np.arctan2(*(mouth - eyes)))
    mask = np.zeros((size, size), dtype=np.float32)
    diameters = 2.0 * (np.array(axes) + margin * size)
    cv2.ellipse(mask, (tuple(centre.tolist()), tuple(diameters.tolist()), float(angle)), 1.0, -1)
    return cv2.GaussianBlur(mask, (0, 0), 0.02 * size)


def is_among(face: DetectedFace, faces: Sequence[DetectedFace]) -> bool:
    """Whether a face lies on one of those known, though its box may have become somewhat larger or smaller."""
    return any(
        (lies_in(face.box, other.box) or lies_in(other.box, face.box)) and 0.25 < face.area / other.area < 4.0
        for other in faces
    )


def _record(face: DetectedFace, similarity: float | None, attempts: int, method: str) -> FaceRecord:
    x0, y0, x1, y1 = (float(value) for value in face.box)
    return FaceRecord((x0, y0, x1, y1), face.score, similarity, attempts, method)
