"""Faces of one frame: cropped by smoothed landmarks, or kept because the person agreed."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from nullface_pipeline.face_identity import DetectedFace, embed_face, similarity
from nullface_pipeline.face_target import FaceTarget, make_target
from nullface_pipeline.photo import consent_threshold, find_kept_faces, read_references
from nullface_pipeline.photo_options import MAX_SEED
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.states import TrackStates


def kept_tracks(rendering: Rendering, number: int, pixels: np.ndarray) -> set[int]:
    """Tracks to keep: the track and its face in this frame match a person who agreed to be seen."""
    if not rendering.options.skip_faces:
        return set()
    analyser, threshold = rendering.pipe.face_analyser, consent_threshold(rendering.pipe, rendering.options)
    references = read_references(analyser, rendering.options.skip_faces)
    people = [each for each in references if isinstance(each, np.ndarray)]
    # Tracks of `Rendering.cover_found` have no embedding.
    faces = detected_faces(rendering, range(len(rendering.parents)), number)
    now = {
        index: replace(face, embedding=embed_face(analyser, pixels, face.landmarks))
        for index, face in faces.items()
        if max(similarity(face.embedding, person) for person in people) >= threshold
    }
    kept = find_kept_faces(analyser, list(now.values()), people, threshold)
    return {index for index, face in now.items() if face in kept}


def track_target(rendering: Rendering, index: int, number: int, pixels: np.ndarray) -> FaceTarget | None:
    """Crop the face of a track by its smoothed landmarks; `None` if they are implausible."""
    states = rendering.tracks[index]
    position = number - states.first
    smooth = _face(states, position, states.landmarks[position])
    others = [
        _face(other, number - other.first, other.landmarks[number - other.first])
        for other in rendering.tracks
        if other.has_face(number) and other is not states
    ]
    seed = (rendering.seed + index) % MAX_SEED
    keep, identity = rendering.options.keep, rendering.identities[index]
    try:
        target = make_target(rendering.pipe, pixels, smooth, [smooth, *others], keep, None, seed, identity)
    except ValueError:
        return None
    # The face is verified at its detected landmarks.
    face = detected_face(states, number) or smooth
    strength = rendering.strengths[index]
    mask = target.wider_mask if strength else target.mask
    return replace(target, face=face, mask=mask, attempts=strength)


def detected_face(states: TrackStates, number: int) -> DetectedFace | None:
    """Detected face of a track in a frame; `None` without a detection."""
    own = np.flatnonzero(states.track.frames == number)
    return _face(states, number - states.first, states.track.landmarks[own[0]]) if len(own) else None


def detected_faces(rendering: Rendering, indices: Iterable[int], number: int) -> dict[int, DetectedFace]:
    """Detected faces of some tracks in a frame, by track."""
    faces = {index: detected_face(rendering.tracks[index], number) for index in indices}
    return {index: face for index, face in faces.items() if face is not None}


def _face(states: TrackStates, index: int, landmarks: np.ndarray) -> DetectedFace:
    return DetectedFace(states.boxes[index], landmarks, 1.0, states.track.embedding)
