"""Verification of an encoded segment: it is decoded, searched for faces, and compared."""

from pathlib import Path

import numpy as np

from nullface_pipeline.face_edit import closest_similarity
from nullface_pipeline.face_identity import DetectedFace, FaceLocation, embed_face, similarity
from nullface_pipeline.face_search import search_locations
from nullface_pipeline.face_target import FaceTarget, is_filled, is_part_of_new_face
from nullface_pipeline.photo import unmatched_faces
from nullface_pipeline.video.compose import plan_frame
from nullface_pipeline.video.new_faces import FrameFaces
from nullface_pipeline.video.reader import Frame, read_frames
from nullface_pipeline.video.rendering import NO_IDENTITY, Rendering
from nullface_pipeline.video.targets import detected_faces


def check_segment(
    rendering: Rendering, path: Path, frames: dict[int, Frame], faces: dict[int, FrameFaces]
) -> tuple[set[tuple[int, int]], list[tuple[int, np.ndarray]]]:
    """Verify an encoded segment.

    Returns:
        Frame and track of new faces that still match the person, and frame and (4,) float32 box of
        detected faces without a track.
    """
    failed: set[tuple[int, int]] = set()
    found: list[tuple[int, np.ndarray]] = []
    for (number, original), frame in zip(frames.items(), read_frames(path), strict=True):
        before = original.pixels
        # Without the padding that makes both sides even.
        shown = np.ascontiguousarray(frame.pixels[: before.shape[0], : before.shape[1]])
        detected = search_locations(rendering.pipe.face_analyser, shown)
        plan = plan_frame(rendering, faces[number], number)
        replaced = {index: target.face for index, target in plan.replaced.items()}
        parts = detected_faces(rendering, plan.parts, number)
        for index, face in (replaced | parts).items():
            # Not `>=`: NaN counts as a failure.
            if not similarity_to_person(rendering, face, before, shown, detected) < rendering.threshold:
                failed.add((number, index))
        known = replaced | detected_faces(rendering, plan.kept, number)
        for other in unmatched_faces(detected, list(known.values())):
            if not is_only_new(rendering, other, list(plan.replaced.values()), before, shown, detected):
                found.append((number, other.box))
    return failed, found


def is_only_new(
    rendering: Rendering,
    face: FaceLocation,
    hidden: list[FaceTarget],
    before: np.ndarray,
    after: np.ndarray,
    detected: list[FaceLocation],
) -> bool:
    """Whether a detection is a part of a new face, or a head around one that does not match."""
    if is_part_of_new_face(face, hidden):
        return True
    features = np.concatenate([face.landmarks.min(axis=0), face.landmarks.max(axis=0)])
    unknown = DetectedFace(face.box, face.landmarks, face.score, NO_IDENTITY)
    return (
        any(is_filled(target, features) for target in hidden)
        and similarity_to_person(rendering, unknown, before, after, detected) < rendering.threshold
    )


def similarity_to_person(
    rendering: Rendering, face: DetectedFace, before: np.ndarray, after: np.ndarray, detected: list[FaceLocation]
) -> float:
    """Highest cosine similarity of a new face to the original face and to its track.

    Args:
        face (`DetectedFace`): landmarks in this frame, embedding of the track.
    """
    verifier = rendering.options.verifier
    analyser = rendering.pipe.face_analyser
    own = closest_similarity([analyser, *([] if verifier is None else [verifier])], before, after, face, detected)
    new = embed_face(analyser, after, face.landmarks)
    return float(np.max([own, similarity(new, face.embedding)]))
