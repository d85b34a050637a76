"""One frame of the result: its new faces and, over them, its covers."""

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
from nullface_pipeline.video.rendering import NOBODY, Rendering
from nullface_pipeline.video.states import LARGEST


# Where a face fails, so many frames before and after it are covered too: a face and a patch by turns draw the eye.
AROUND_FAILURE = 3

# How much of a pixel is a new face's where no patch is needed.
REPLACED = 0.95


@dataclass(frozen=True, eq=False)
class FramePlan:
    """What is done with each track in one frame; each is in one of the four.

    Attributes:
        replaced (`dict[int, FaceTarget]`): replaced by a new face.
        covered (`dict[int, tuple[np.ndarray, float]]`): box and margin of a cover.
        parts (`list[int]`): parts of faces that are replaced, such as a mouth that was taken for a face.
        kept (`list[int]`): left as they are, see `kept_tracks`.
    """

    replaced: dict[int, FaceTarget]
    covered: dict[int, tuple[np.ndarray, float]]
    parts: list[int]
    kept: list[int] = field(default_factory=list)


def compose(rendering: Rendering, before: np.ndarray, faces: FrameFaces, number: int) -> np.ndarray:
    """(H, W, 3) uint8: a frame with its new faces and, over them, its patches.

    Raises:
        FaceNotHiddenError: if not every face of the frame is accounted for.
    """
    done = plan_frame(rendering, faces, number)
    hidden = tuple(done.replaced.values())
    boxes = [widened(box, margin) for box, margin in done.covered.values()]
    replaced = paste_all(before, list(hidden))
    pixels = cover_faces(replaced, boxes, rendering.options.cover)
    there = [index for index, states in enumerate(rendering.tracks) if states.at(number) is not None]
    if there != sorted([*done.replaced, *done.covered, *done.parts, *done.kept]):
        raise FaceNotHiddenError(f"Not every face of frame {number} is accounted for; nothing is written.")
    covered = tuple(DetectedFace(box, np.zeros((5, 2)), 1.0, NOBODY) for box in boxes)
    found = FoundFaces(before, tuple(target.face for target in hidden), covered, ())
    check_finished(found, FinishedFaces(pixels, hidden, (), covered, rendering.options.cover))
    return np.where(shown_in_front(rendering, done, number, before.shape[:2])[..., None], replaced, pixels)


def plan_frame(rendering: Rendering, faces: FrameFaces, number: int) -> FramePlan:
    """What is done with each track in a frame."""
    hidden = {i: target for i, target in faces.targets.items() if not is_near_failure(rendering, number, i)}
    done = FramePlan(hidden, {}, [], sorted(faces.kept))
    for index, states in enumerate(rendering.tracks):
        place = states.at(number)
        if place is None or index in hidden or index in done.kept:
            continue
        parent = rendering.parents[index] if index < len(rendering.parents) else None
        # Where the part was not found itself, it is somewhere in its parent's face.
        seen = number in states.track.frames
        filled = parent in hidden and (not seen or is_filled(hidden[parent], states.boxes[place]))
        if filled and not is_near_failure(rendering, number, index):
            done.parts.append(index)
        else:
            done.covered[index] = (states.patches[place], float(states.margins[place]))
    return done


def shown_in_front(rendering: Rendering, done: FramePlan, number: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the new faces that no patch need lie over.

    A face that was found is in front of one that was not. A doubtful track is covered at its own place only, never over
    a new face: only synthetic pixels are shown there, and the finished segment is searched once more.
    """
    found = [
        box
        for index, (box, _) in done.covered.items()
        if index >= len(rendering.parents)
        or not rendering.tracks[index].track.is_doubtful
        and (rendering.tracks[index].has_face(number) or is_found(rendering, index, number))
    ]
    shown = np.zeros(size, dtype=bool)
    for index, target in done.replaced.items():
        if is_found(rendering, index, number) and not any(is_near(target.face.box, box) for box in found):
            ellipse = face_ellipse(target.crop.points_to_crop(target.face.landmarks), target.crop.size)
            # Only what is replaced: nothing of anybody is left there.
            weight = np.minimum(ellipse, target.mask * edge_feather(target.crop.size))
            white = np.full_like(target.aligned, 255)
            shown |= target.crop.paste(np.zeros((*size, 3), np.uint8), white, weight)[..., 0] >= 255 * REPLACED
    return shown


def is_found(rendering: Rendering, index: int, number: int) -> bool:
    """Whether the detector found a track's face in a frame."""
    return number in rendering.tracks[index].track.frames


def is_near(box: np.ndarray, patch: np.ndarray) -> bool:
    """Whether a face's box (x0, y0, x1, y1) touches what the largest patch around another box covers."""
    reach = (2**0.5 + LARGEST) / 2.0 * (patch[2:] - patch[:2])
    centre = (patch[:2] + patch[2:]) / 2.0
    return bool(np.all(box[:2] < centre + reach) and np.all(box[2:] > centre - reach))


def is_near_failure(rendering: Rendering, number: int, index: int) -> bool:
    """Whether a track's face failed in a frame or in one of those around it."""
    around = range(number - AROUND_FAILURE, number + AROUND_FAILURE + 1)
    return any((frame, index) in rendering.failed for frame in around)
