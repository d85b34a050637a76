"""New faces of a video: cropped, generated in key frames, and averaged over time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from nullface_pipeline.face_edit import stronger
from nullface_pipeline.face_target import FaceTarget
from nullface_pipeline.identity_choices import IDENTITY_CHOICES
from nullface_pipeline.video.reader import Frame
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.smoothing import AVERAGED, KEY_DISTANCE, key_frames, smooth_result
from nullface_pipeline.video.targets import kept_tracks, track_target


# Frames before and after whose masks are joined with that of a frame, so that masks do not flicker.
JOINED_MASKS = 2

# Frames before and after a frame in the second average. The first takes only key frames.
AVERAGED_AGAIN = 2


@dataclass(frozen=True, eq=False)
class FrameFaces:
    """Faces of one frame.

    Attributes:
        targets (`dict[int, FaceTarget]`): faces to replace, by track.
        kept (`frozenset[int]`): tracks of people who agreed to be seen, see `kept_tracks`.
    """

    targets: dict[int, FaceTarget]
    kept: frozenset[int]


class NewFaces:
    """Stream of new faces, which do not depend on the segment boundaries.

    Faces are generated in key frames, see `key_frames`, and in `rendering.generated`. Batches of
    the UNet begin at fixed frames, so a resumed run makes the same batches. Faces that cannot be
    replaced are added to `rendering.failed`.

    Args:
        rendering (`Rendering`): plan of the video.
        frames (`Iterator[Frame]`): all frames of the video.
    """

    def __init__(self, rendering: Rendering, frames: Iterator[Frame]) -> None:
        self._rendering = rendering
        self._frames = enumerate(frames)
        self._read = 0
        self._cropped: dict[int, FrameFaces] = {}
        self._made: dict[int, FrameFaces] = {}
        self._averaged: dict[int, FrameFaces] = {}
        self._next = 0

    def between(
        self, start: int, end: int, on_batch: Callable[[int], None] = lambda generated: None
    ) -> dict[int, FrameFaces]:
        """Averaged faces of the frames from `start` to before `end`. Calls must be in order.

        `on_batch` is called with the number of frames before the end of each generated batch.
        """
        # About half of a batch are key frames that are added.
        size = KEY_DISTANCE * max(1, self._rendering.options.batch_faces // 2)
        before, after = max(0, start - AVERAGED_AGAIN), min(end + AVERAGED_AGAIN, len(self._rendering.times))
        first = max(0, before - AVERAGED)
        self._next = max(self._next, first // size * size)
        self._made = {number: faces for number, faces in self._made.items() if number >= first}
        while self._next < min(after + AVERAGED, len(self._rendering.times)):
            self._make(range(self._next, self._next + size))
            self._next += size
            on_batch(self._next)
        averaged = {number: self._averaged.get(number) for number in range(before, after)}
        self._averaged = {number: faces or smooth_faces(self._made, number) for number, faces in averaged.items()}
        faces = {number: smooth_faces(self._averaged, number, AVERAGED_AGAIN) for number in range(start, end)}
        for number, index in sorted(self._rendering.generated):
            if number in faces and index in faces[number].targets:
                faces[number].targets[index] = self.generated(number, index)
        return faces

    def is_carried(self, number: int, index: int) -> bool:
        """Whether a face of the latest `between` is the average of other frames only."""
        target = self._made[number].targets.get(index)
        return target is not None and target.result is None and (number, index) not in self._rendering.generated

    def generated(self, number: int, index: int) -> FaceTarget:
        """Generate a carried face of the latest `between`. Other frames do not change.

        It is generated alone, so that it does not depend on the other faces of `generated`.
        """
        made = {other: faces.targets[index] for other, faces in self._made.items() if index in faces.targets}
        (result,) = self._generate(index, [made[number]])
        made[number] = replace(made[number], result=result)
        return replace(made[number], result=smooth_result(made, number))

    def _generate(self, index: int, targets: list[FaceTarget]) -> list[np.ndarray]:
        """New faces of one batch of a track."""
        options, pipe = self._rendering.options, self._rendering.pipe
        settings = stronger(options.settings(pipe.presets), self._rendering.strengths[index])
        return IDENTITY_CHOICES[options.identity].new_faces(pipe, targets, settings)

    def _make(self, numbers: range) -> None:
        """Generate the faces of the key frames among some frames, track by track."""
        end = numbers[-1] + 1
        self._crop_faces(range(numbers[0], end + 1))
        made = {number: self._with_joined_masks(number) for number in (*numbers, end) if number in self._cropped}
        for index in sorted({index for faces in made.values() for index in faces.targets}):
            targets = {number: faces.targets[index] for number, faces in made.items() if index in faces.targets}
            keys = sorted(key_frames(targets, numbers[0], end))
            for at in range(0, len(keys), self._rendering.options.batch_faces):
                batch = keys[at : at + self._rendering.options.batch_faces]
                results = self._generate(index, [targets[number] for number in batch])
                for number, result in zip(batch, results, strict=True):
                    made[number].targets[index] = replace(targets[number], result=result)
        self._made |= {number: faces for number, faces in made.items() if number < end}

    def _crop_faces(self, numbers: range) -> None:
        """Crop the faces of frames, and of the neighbours whose masks are joined with theirs."""
        first, last = numbers[0] - JOINED_MASKS, numbers[-1] + JOINED_MASKS
        self._cropped = {number: faces for number, faces in self._cropped.items() if number >= first}
        while self._read <= last and (read := next(self._frames, None)) is not None:
            number, frame = read
            self._read = number + 1
            if number >= first:
                self._cropped[number] = crop_faces(self._rendering, number, frame.pixels)

    def _with_joined_masks(self, number: int) -> FrameFaces:
        """Faces of a frame that can be replaced, with their final masks."""
        targets: dict[int, FaceTarget] = {}
        for index, target in self._cropped[number].targets.items():
            around = range(number - JOINED_MASKS, number + JOINED_MASKS + 1)
            near = [self._cropped[other].targets.get(index, target) for other in around if other in self._cropped]
            mask = np.max([each.mask for each in near], axis=0)
            # The wider mask of a retry is no longer needed and takes as much memory as the mask.
            joined = replace(target, mask=mask, wider_mask=mask)
            if index in self._cropped[number].kept:
                continue
            if joined.can_change:
                targets[index] = joined
            else:
                self._rendering.failed.add((number, index))
        return FrameFaces(targets, self._cropped[number].kept)


def smooth_faces(made: Mapping[int, FrameFaces], number: int, frames: int = AVERAGED) -> FrameFaces:
    """Faces of a frame, averaged by `smooth_result`."""
    targets: dict[int, FaceTarget] = {}
    for index, target in made[number].targets.items():
        track = {other: faces.targets[index] for other, faces in made.items() if index in faces.targets}
        targets[index] = replace(target, result=smooth_result(track, number, frames))
    return FrameFaces(targets, made[number].kept)


def crop_faces(rendering: Rendering, number: int, pixels: np.ndarray) -> FrameFaces:
    """Crop the faces of a frame; add those with implausible landmarks to `rendering.failed`."""
    targets: dict[int, FaceTarget] = {}
    for index, states in enumerate(rendering.tracks):
        if states.has_face(number):
            target = track_target(rendering, index, number, pixels)
            if target is not None:
                targets[index] = target
            else:
                rendering.failed.add((number, index))
    return FrameFaces(targets, frozenset(kept_tracks(rendering, number, pixels)))
