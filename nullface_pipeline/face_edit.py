"""Attempts at the faces of a photo, in batches, retried with more effect while they still match."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .face_identity import DetectedFace, FaceLocation, embed_face, similarity
from .face_search import SAME_BOX, overlap, search_faces
from .face_target import FaceTarget, paste_all
from .identity_choices import IDENTITY_CHOICES
from .photo_options import PhotoOptions
from .protocols import FaceAnalyser, NullFacePipeline, Settings


def hide_faces(
    pipe: NullFacePipeline, pixels: np.ndarray, targets: list[FaceTarget], options: PhotoOptions, threshold: float
) -> tuple[list[FaceTarget], list[DetectedFace]]:
    """Replace the targets; retry those that still match the person, with more effect each time.

    Args:
        threshold (`float`): similarity from which on a face matches the person.

    Returns:
        The targets, and all faces found in the photo with the last attempts in it.
    """
    analysers = [pipe.face_analyser] if options.verifier is None else [pipe.face_analyser, options.verifier]
    identity = IDENTITY_CHOICES[options.identity]
    settings = options.settings(pipe.presets)
    seen: list[DetectedFace] = []
    for attempt in range(options.max_attempts):
        pending = [
            index for index, target in enumerate(targets) if target.can_change and not target.is_replaced(threshold)
        ]
        if options.on_progress is not None:
            options.on_progress(len(targets) - len(pending), len(targets))
        if not pending:
            break
        if attempt > 0:
            targets = [replace(t, mask=t.wider_mask) if i in pending else t for i, t in enumerate(targets)]
        for start in range(0, len(pending), options.batch_faces):
            batch = pending[start : start + options.batch_faces]
            results = identity.new_faces(pipe, [targets[i] for i in batch], stronger(settings, attempt))
            for index, result in zip(batch, results):
                targets[index] = replace(targets[index], result=result, attempts=attempt + 1)
        finished = paste_all(pixels, targets)
        seen = search_faces(pipe.face_analyser, finished)
        # All of them: a new attempt at a neighbour may have changed the surroundings of an earlier
        # one.
        targets = [
            replace(target, similarity=closest_similarity(analysers, pixels, finished, target.face, seen))
            for target in targets
        ]
    return targets, seen


def stronger(settings: Settings, attempt: int) -> Settings:
    """Settings of the n-th attempt, from 0: more guidance, a longer embedding, fewer skipped steps.

    A retry of few-step sampling first uses all steps, with the settings otherwise unchanged.
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


def closest_similarity(
    analysers: list[FaceAnalyser],
    before: np.ndarray,
    after: np.ndarray,
    face: DetectedFace,
    seen: Sequence[FaceLocation],
) -> float:
    """The highest similarity between a face before and after, over the recognizers.

    The face is embedded at its old landmarks and, if it is among the faces `seen` in `after`, at
    the new ones: otherwise a misaligned crop could pass for a new identity.
    """
    redetected = [new.landmarks for new in seen if overlap(new.box, face.box) > SAME_BOX]
    similarities = []
    for analyser in analysers:
        original = embed_face(analyser, before, face.landmarks)
        for landmarks in [face.landmarks, *redetected]:
            similarities.append(similarity(original, embed_face(analyser, after, landmarks)))
    # NumPy's maximum propagates NaN, which is below no threshold; Python's may drop it.
    return float(np.max(similarities))
