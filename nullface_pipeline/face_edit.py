"""Faces in a photo: cut out, anonymized in batches until nobody is recognized, and pasted back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
import PIL.Image
import torch

from .ddpm_inversion import DDPMInversion, few_step_timesteps
from .face_crops import FaceCrop, edge_feather
from .face_identity import DetectedFace, embed_face, similarity
from .face_masks import face_masks, mask_picture, nearest_face, parts_to_change
from .face_search import SAME_BOX, overlap, search_faces
from .face_strangers import AngleSearch, load_people, towards_strangers
from .photo_records import PhotoOptions


# Share of a face, and of the part with its features, that has to be free to change. With less of it, no result can be
# another person, whatever a recognizer says of it.
MIN_CHANGE = 0.2

# How many angles between a person and a stranger are tried in one attempt.
ANGLES = 4

# Share of the noise inside the mask that is drawn anew: the noise that inversion finds holds the photo.
FRESH_NOISE = 1.0

INVERSION_SETTINGS = frozenset(
    {
        "num_inference_steps",
        "skip",
        "timesteps",
        "solver_order",
        "eta",
        "ip_adapter_scale",
        "inversion_batch_size",
    }
)


@dataclass(frozen=True, eq=False)
class FaceTarget:
    """One face to hide, and the latest attempt at it.

    Attributes:
        face (`DetectedFace`): as it was in the photo.
        crop (`FaceCrop`): from the photo to the model's square.
        aligned (`np.ndarray`): (size, size, 3) uint8 RGB, the crop of the photo.
        mask (`np.ndarray`): (size, size) float32 in [0, 1], what may change.
        wider_mask (`np.ndarray`): the same for faces that are tried again.
        parts (`tuple[np.ndarray, ...]`): (size, size) bool, the face and its inner part, as far as the photo shows them.
        seed (`int` or `None`): of its noise.
        identity (`np.ndarray`): (512,) whom the new face is to be unlike: as the photo shows the person, or as all that is
            known of the person does. The result is always compared with the photo.
        attempts (`int`): made so far.
        result (`np.ndarray` or `None`): (size, size, 3) uint8 RGB, of the latest attempt.
        similarity (`float`): of the latest attempt to the person; infinite before the first.
    """

    face: DetectedFace
    crop: FaceCrop
    aligned: np.ndarray
    mask: np.ndarray
    wider_mask: np.ndarray
    parts: tuple[np.ndarray, ...]
    seed: int | None
    identity: np.ndarray
    attempts: int = 0
    result: np.ndarray | None = None
    similarity: float = math.inf

    @property
    def can_change(self) -> bool:
        """Whether enough of the face may change for another person to come out."""
        return all(self.mask[part].sum() >= MIN_CHANGE * part.sum() for part in self.parts)

    def changed(self, pixels: np.ndarray) -> float:
        """The share of the pixels that differ in (H, W, 3) uint8 `pixels`, in the part of the face with the least."""
        differs = (self.crop.crop_image(pixels) != self.aligned).any(axis=-1)
        return min((float(differs[part].mean()) for part in self.parts if part.any()), default=1.0)

    def is_hidden(self, threshold: float) -> bool:
        """Whether there is an attempt that does not resemble the person; no number is no."""
        return self.result is not None and self.similarity < threshold

    def embed(self, analyser: Any, result: np.ndarray) -> np.ndarray:
        """(512,) unit norm: who (size, size, 3) uint8 RGB shows at the face's place, once it is pasted."""
        weight = self.mask[..., None] * edge_feather(self.crop.size)[..., None]
        blended = (self.aligned + weight * (result.astype(np.float32) - self.aligned)).round().astype(np.uint8)
        return embed_face(analyser, blended, self.crop.points_to_crop(self.face.landmarks))

    def paste(self, pixels: np.ndarray) -> np.ndarray:
        """Put the latest attempt into (H, W, 3) uint8 `pixels`; returns a new array."""
        if self.result is None:
            return pixels
        return self.crop.paste(pixels, self.result, self.mask * edge_feather(self.crop.size))


def make_target(
    pipe: Any,
    pixels: np.ndarray,
    face: DetectedFace,
    faces: list[DetectedFace],
    keep: Sequence[str],
    keep_mask: np.ndarray | None,
    seed: int | None,
    identity: np.ndarray | None = None,
) -> FaceTarget:
    """Cut one of several faces out of (H, W, 3) uint8 `pixels` and decide what of it may change.

    Args:
        identity (`np.ndarray`, *optional*): as in `FaceTarget`; the face's own embedding by default.
    """
    crop = FaceCrop.from_landmarks(face.landmarks, pipe.unet.config.sample_size * pipe.vae_scale_factor)
    aligned = crop.crop_image(pixels)
    mine: np.ndarray = nearest_face(crop, face, faces).astype(np.float32)
    if keep_mask is not None:
        mine = mine * (1.0 - crop.crop_mask(keep_mask))
    landmarks = crop.points_to_crop(face.landmarks)
    mask, wider_mask = face_masks(pipe.face_parser, aligned, landmarks, keep)
    parts = parts_to_change(crop, landmarks, pixels.shape[:2])
    identity = face.embedding if identity is None else identity
    return FaceTarget(face, crop, aligned, mine * mask, mine * wider_mask, parts, seed, identity)


def hide_faces(
    pipe: Any, pixels: np.ndarray, targets: list[FaceTarget], options: PhotoOptions, threshold: float
) -> tuple[list[FaceTarget], list[DetectedFace]]:
    """Anonymize the targets, and those that still resemble the person again, stronger each time.

    Args:
        threshold (`float`): similarity from which on a face still is the person.

    Returns:
        The targets, and all faces found in the photo with the last attempts in it.
    """
    analysers = [pipe.face_analyser] if options.judge is None else [pipe.face_analyser, options.judge]
    run = run_album if options.is_album else run_pipeline
    if options.is_towards_strangers:
        run = run_towards_strangers
    settings = options.settings(pipe.presets)
    seen: list[DetectedFace] = []
    for attempt in range(options.max_attempts):
        # Not "at or above": what cannot be compared is not hidden.
        pending = [
            index for index, target in enumerate(targets) if target.can_change and not target.is_hidden(threshold)
        ]
        if not pending:
            break
        if attempt > 0:
            targets = [replace(t, mask=t.wider_mask) if i in pending else t for i, t in enumerate(targets)]
        for start in range(0, len(pending), options.batch_faces):
            batch = pending[start : start + options.batch_faces]
            results = run(pipe, [targets[i] for i in batch], stronger(settings, attempt))
            for index, result in zip(batch, results):
                targets[index] = replace(targets[index], result=result, attempts=attempt + 1)
        finished = paste_all(pixels, targets)
        seen = search_faces(pipe.face_analyser, finished)
        # All, because a neighbour's new attempt may have changed what an earlier one was judged by.
        targets = [
            replace(target, similarity=closest_similarity(analysers, pixels, finished, target.face, seen))
            for target in targets
        ]
    return targets, seen


def stronger(settings: dict[str, Any], attempt: int) -> dict[str, Any]:
    """Settings of the n-th attempt, counted from 0: more guidance, a longer embedding, less skipped.

    After few steps all of them come first.
    """
    if attempt == 0:
        return settings
    if "few_steps" in settings:
        return stronger({name: value for name, value in settings.items() if name != "few_steps"}, attempt - 1)
    return {
        **settings,
        "guidance_scale": settings["guidance_scale"] * (1.0 + 0.5 * attempt),
        "identity_scale": settings.get("identity_scale", 1.0) * (1.0 + 0.25 * attempt),
        "skip": max(0.0, settings["skip"] - 0.1 * attempt),
    }


def run_pipeline(pipe: Any, targets: list[FaceTarget], settings: dict[str, Any]) -> list[np.ndarray]:
    """One batch of faces through the pipeline, away from the people; returns (size, size, 3) uint8 RGB each."""
    return edit(pipe, targets, generator=noise_generators(targets) or None, **pipeline_settings(settings))


def run_album(pipe: Any, targets: list[FaceTarget], settings: dict[str, Any]) -> list[np.ndarray]:
    """The same with drawn noise: what photos of one person hold beside the person does not tell their new faces apart."""
    inversion, settings = drawn_inversion(pipe, targets, settings, noise_generators(targets))
    return edit(pipe, targets, inversion=inversion, **settings)


def run_towards_strangers(pipe: Any, targets: list[FaceTarget], settings: dict[str, Any]) -> list[np.ndarray]:
    """The same, not away from the people but as far towards strangers as makes the results look like neither."""
    generators = noise_generators(targets)
    inversion, settings = drawn_inversion(pipe, targets, settings, generators)
    embeds = torch.from_numpy(np.stack([target.face.embedding for target in targets]))
    people = load_people(pipe.face_analyser)
    searches = [AngleSearch(*each) for each in zip(embeds, [people] * len(targets), generators or repeat(None))]
    strangers = torch.stack([search.stranger for search in searches])
    # Given as it is to be, so not to be negated once more.
    settings["identity_scale"] = -settings.get("identity_scale", 1.0)
    results: list[list[np.ndarray]] = [[] for _ in targets]
    for _ in range(ANGLES):
        pending = [index for index, search in enumerate(searches) if not search.is_done]
        if not pending:
            break
        angles = [searches[index].angle for index in pending]
        identities = towards_strangers(embeds[pending], strangers[pending], angles)
        turned = [replace(targets[index], identity=each.numpy()) for index, each in zip(pending, identities)]
        edited = edit(pipe, turned, inversion=inversion.select(pending), **settings)
        for index, angle, result in zip(pending, angles, edited):
            searches[index].add(angle, torch.from_numpy(targets[index].embed(pipe.face_analyser, result)))
            results[index].append(result)
    return [tries[search.best] for tries, search in zip(results, searches)]


def edit(pipe: Any, targets: list[FaceTarget], **arguments: Any) -> list[np.ndarray]:
    """The pipeline on the faces of some targets, with their identities and masks; (size, size, 3) uint8 RGB each."""
    images = pipe(
        [PIL.Image.fromarray(target.aligned) for target in targets],
        identity_embeds=torch.from_numpy(np.stack([target.identity for target in targets])),
        mask_image=[mask_picture(target.mask) for target in targets],
        **arguments,
    ).images
    return [np.asarray(image) for image in images]


def drawn_inversion(
    pipe: Any, targets: list[FaceTarget], settings: dict[str, Any], generators: list[torch.Generator]
) -> tuple[DDPMInversion, dict[str, Any]]:
    """An inversion with noise inside the masks that holds nothing of the photos, and the settings of the edit."""
    settings = pipeline_settings(settings)
    of_inversion = {name: value for name, value in settings.items() if name in INVERSION_SETTINGS}
    of_edit = {name: value for name, value in settings.items() if name not in INVERSION_SETTINGS}
    images = [PIL.Image.fromarray(target.aligned) for target in targets]
    inversion = pipe.invert(images, generator=generators or None, **of_inversion)
    masks = [mask_picture(target.mask) for target in targets]
    latent_mask = pipe.prepare_mask(masks, None, pipe.prepare_image(images)).to(inversion.latents.device)
    return inversion.with_fresh_noise(FRESH_NOISE, latent_mask, generators or None), of_edit


def noise_generators(targets: list[FaceTarget]) -> list[torch.Generator]:
    """One a face, so that a face's result does not depend on which others there are; none without seeds."""
    if all(target.seed is None for target in targets):
        return []
    generators = [torch.Generator() for _ in targets]
    for target, generator in zip(targets, generators):
        if target.seed is None:
            generator.seed()
        else:
            generator.manual_seed((target.seed + 1000 * target.attempts) % 2**63)
    return generators


def pipeline_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The same in the arguments of the pipeline's `__call__`: few steps are timesteps, which say how much is skipped."""
    if "few_steps" not in settings:
        return settings
    others = {name: value for name, value in settings.items() if name not in ("few_steps", "skip")}
    return {**others, "timesteps": few_step_timesteps(settings["few_steps"], settings["skip"])}


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
    # Not Python's maximum, which passes over what is no number; NumPy's is none then, and is below no threshold.
    return float(np.max(similarities))
