"""New faces for the tracks of a segment."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from nullface_pipeline.face_edit import stronger
from nullface_pipeline.face_target import FaceTarget, paste_all
from nullface_pipeline.identity_choices import IDENTITY_CHOICES
from nullface_pipeline.photo import is_changed
from nullface_pipeline.video.reader import Frame
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.smoothing import smooth_results
from nullface_pipeline.video.targets import track_target


# A mask reaches as far as those of so many frames before and after it, so that it does not shrink between neighbours.
STEADY = 2


@dataclass(eq=False)
class Segment:
    """One segment of a video on its way.

    Attributes:
        start, end (`int`): its first frame, and the frame after its last.
        window (`dict[int, Frame]`): its frames by number, and `STEADY` more to either side.
        targets (`dict[int, dict[int, FaceTarget]]`): by frame and track, with their results.
        failed (`set[tuple[int, int]]`): frame and track of what is covered because it did not pass.
        kept (`set[tuple[int, int]]`): frame and track of people who agreed to be seen.
    """

    start: int
    end: int
    window: Mapping[int, Frame]
    targets: dict[int, dict[int, FaceTarget]] = field(default_factory=dict)
    failed: set[tuple[int, int]] = field(default_factory=set)
    kept: set[tuple[int, int]] = field(default_factory=set)


def windows(frames: Iterator[Frame], spans: list[tuple[int, int]]) -> Iterator[tuple[int, int, dict[int, Frame]]]:
    """(start, end, frames by number) of each span, with `STEADY` frames more to either side; no more is held."""
    source = enumerate(frames)
    held: dict[int, Frame] = {}
    for start, end in spans:
        while max(held, default=-1) < end + STEADY - 1:
            number, frame = next(source, (None, None))
            if number is None or frame is None:
                break
            if number >= start - STEADY:
                held[number] = frame
        held = {number: frame for number, frame in held.items() if number >= start - STEADY}
        yield start, end, dict(held)


def make_targets(rendering: Rendering, segment: Segment) -> None:
    """Cut out the faces of a segment and of its neighbours, with masks as far as those around them in time reach."""
    around: dict[tuple[int, int], FaceTarget] = {}
    for number, frame in segment.window.items():
        for index, states in enumerate(rendering.tracks):
            if states.has_face(number):
                target = track_target(rendering, index, number, frame.pixels)
                if target is not None:
                    around[number, index] = target
                else:
                    segment.failed.add((number, index))
    for (number, index), target in around.items():
        if segment.start <= number < segment.end and (number, index) not in segment.kept:
            near = [around.get((other, index), target) for other in range(number - STEADY, number + STEADY + 1)]
            mask = np.max([each.mask for each in near], axis=0)
            segment.targets.setdefault(number, {})[index] = replace(target, mask=mask)


def anonymize_targets(rendering: Rendering, segment: Segment) -> None:
    """Give every target its new face, consecutive frames of one track in batches."""
    size = rendering.options.batch_faces
    for index in sorted({index for targets in segment.targets.values() for index in targets}):
        numbers = [number for number, targets in sorted(segment.targets.items()) if index in targets]
        pending = [number for number in numbers if segment.targets[number][index].can_change]
        segment.failed |= {(number, index) for number in numbers if number not in pending}
        settings = stronger(rendering.options.settings(rendering.pipe.presets), rendering.strengths[index])
        for start in range(0, len(pending), size):
            batch = pending[start : start + size]
            results = IDENTITY_CHOICES[rendering.options.identity].new_faces(
                rendering.pipe, [segment.targets[number][index] for number in batch], settings
            )
            for number, result in zip(batch, results):
                segment.targets[number][index] = replace(segment.targets[number][index], result=result)
        made = {number: segment.targets[number][index] for number in pending}
        for number, result in smooth_results(made).items():
            segment.targets[number][index] = replace(made[number], result=result)
    for number, targets in segment.targets.items():
        before = segment.window[number].pixels
        after = paste_all(before, list(targets.values()))
        unchanged = [index for index, target in targets.items() if not is_changed(before, after, target)]
        segment.failed |= {(number, index) for index in unchanged}
