"""Composition of a frame: new faces, and covers over them."""

from dataclasses import dataclass, field

import numpy as np

from nullface_pipeline.face_covers import cover_faces, widened
from nullface_pipeline.face_crops import edge_feather
from nullface_pipeline.face_identity import DetectedFace
from nullface_pipeline.face_masks import face_ellipse
from nullface_pipeline.face_target import FaceTarget, is_filled, paste_all
from nullface_pipeline.photo import FinishedFaces, FoundFaces, check_finished
from nullface_pipeline.photo_records import FaceNotHiddenError
from nullface_pipeline.video.new_faces import FrameFaces
from nullface_pipeline.video.rendering import NO_IDENTITY, Rendering
from nullface_pipeline.video.states import LARGEST


# Frames before and after a failure that are covered too, so that covers do not flicker.
AROUND_FAILURE = 3

# Weight of the new face above which a pixel needs no cover.
REPLACED = 0.95


@dataclass(frozen=True, eq=False)
class FramePlan:
    """Treatment of each track in one frame, by index of the track.

    Attributes:
        replaced (`dict[int, FaceTarget]`): tracks with a new face.
        covered (`dict[int, tuple[np.ndarray, float]]`): (4,) box in pixels and margin of each
            cover.
        parts (`list[int]`): parts of a replaced face that were detected as faces, such as a mouth.
        kept (`list[int]`): unchanged tracks, see `kept_tracks`.
    """

    replaced: dict[int, FaceTarget]
    covered: dict[int, tuple[np.ndarray, float]]
    parts: list[int]
    kept: list[int] = field(default_factory=list)


def compose(rendering: Rendering, before: np.ndarray, faces: FrameFaces, number: int) -> np.ndarray:
    """Paste the new faces of a frame and draw its covers; (H, W, 3) uint8 RGB.

    Raises:
        FaceNotHiddenError: if not every face of the frame is accounted for.
    """
    plan = plan_frame(rendering, faces, number)
    hidden = tuple(plan.replaced.values())
    boxes = [widened(box, margin) for box, margin in plan.covered.values()]
    replaced = paste_all(before, list(hidden))
    pixels = cover_faces(replaced, boxes, rendering.options.cover)
    present = [index for index, states in enumerate(rendering.tracks) if states.at(number) is not None]
    if present != sorted([*plan.replaced, *plan.covered, *plan.parts, *plan.kept]):
        raise FaceNotHiddenError(f"Not every face of frame {number} is accounted for; nothing is written.")
    covered = tuple(DetectedFace(box, np.zeros((5, 2)), 1.0, NO_IDENTITY) for box in boxes)
    found = FoundFaces(before, tuple(target.face for target in hidden), covered, ())
    check_finished(found, FinishedFaces(pixels, hidden, (), covered, rendering.options.cover))
    return np.where(shown_in_front(rendering, plan, number, before.shape[:2])[..., None], replaced, pixels)


def plan_frame(rendering: Rendering, faces: FrameFaces, number: int) -> FramePlan:
    """Decide the treatment of each track in a frame."""
    hidden = {i: target for i, target in faces.targets.items() if not is_near_failure(rendering, number, i)}
    plan = FramePlan(hidden, {}, [], sorted(faces.kept))
    for index, states in enumerate(rendering.tracks):
        position = states.at(number)
        if position is None or index in hidden or index in plan.kept:
            continue
        parent = rendering.parents[index] if index < len(rendering.parents) else None
        # A part that was not detected in this frame lies somewhere in its parent's face.
        filled = parent in hidden and (
            not is_found(rendering, index, number) or is_filled(hidden[parent], states.boxes[position])
        )
        if filled and not is_near_failure(rendering, number, index):
            plan.parts.append(index)
        else:
            plan.covered[index] = (states.patches[position], float(states.margins[position]))
    return plan


def shown_in_front(rendering: Rendering, plan: FramePlan, number: int, size: tuple[int, int]) -> np.ndarray:
    """Mask of the new faces that are drawn over covers; (H, W) bool.

    A detected face is drawn over one that was not detected, and over doubtful tracks. This shows
    only synthetic pixels, and the encoded segment is searched for faces again.

    Args:
        size (`tuple[int, int]`): height and width of the frame.
    """
    found = [
        box
        for index, (box, _) in plan.covered.items()
        if index >= len(rendering.parents)
        or not rendering.tracks[index].track.is_doubtful
        and (rendering.tracks[index].has_face(number) or is_found(rendering, index, number))
    ]
    shown = np.zeros(size, dtype=bool)
    for index, target in plan.replaced.items():
        if is_found(rendering, index, number) and not any(is_near(target.face.box, box) for box in found):
            ellipse = face_ellipse(target.crop.points_to_crop(target.face.landmarks), target.crop.size)
            # Only replaced pixels, so that nothing of the original shows.
            weight = np.minimum(ellipse, target.mask * edge_feather(target.crop.size))
            white = np.full_like(target.aligned, 255)
            shown |= target.crop.paste(np.zeros((*size, 3), np.uint8), white, weight)[..., 0] >= 255 * REPLACED
    return shown


def is_found(rendering: Rendering, index: int, number: int) -> bool:
    """Whether the face of a track was detected in a frame."""
    return number in rendering.tracks[index].track.frames


def is_near(box: np.ndarray, patch: np.ndarray) -> bool:
    """Whether a box (x0, y0, x1, y1) touches the largest cover around the box `patch`."""
    reach = (2**0.5 + LARGEST) / 2.0 * (patch[2:] - patch[:2])
    centre = (patch[:2] + patch[2:]) / 2.0
    return bool(np.all(box[:2] < centre + reach) and np.all(box[2:] > centre - reach))


def is_near_failure(rendering: Rendering, number: int, index: int) -> bool:
    """Whether a track failed within `AROUND_FAILURE` frames of a frame."""
    around = range(number - AROUND_FAILURE, number + AROUND_FAILURE + 1)
    return any((frame, index) in rendering.failed for frame in around)
