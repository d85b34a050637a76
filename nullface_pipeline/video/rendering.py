"""How the tracks of one video are anonymized: everything that is known before its first segment is rendered."""

from dataclasses import dataclass, field

import numpy as np

from nullface_pipeline.photo import similarity_threshold
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.protocols import NullFacePipeline
from nullface_pipeline.video.reader import VideoInfo
from nullface_pipeline.video.states import TrackStates, track_states
from nullface_pipeline.video.tracks import Track


NOBODY = np.zeros(512, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Rendering:
    """How the tracks of one video are anonymized.

    Attributes:
        pipe (`StableDiffusionNullFacePipeline`): with adapter and face models.
        options (`PhotoOptions`): as for every face of a photo.
        seed (`int`): a track's noise follows from it and the track's number.
        info (`VideoInfo`): of the video.
        times (`np.ndarray`): (N,) seconds, of each frame.
        shots (`list[tuple[int, int]]`): first frame, and the frame after the last.
        tracks (`list[TrackStates]`): all of them, by number. Faces that only a finished segment shows are added.
        identities (`list[np.ndarray]`): (512,) for each track that is anonymized: whom its new face is to be unlike.
        strengths (`list[int]`): for each of them, which of `stronger`'s attempts it gets.
        parents (`list[int | None]`): for each of the tracks that were there at first, whose faces it is a part of.
        failed (`set[tuple[int, int]]`): frame and track of faces that could not be replaced; they are covered. Added to while
            segments are rendered.
    """

    pipe: NullFacePipeline
    options: PhotoOptions
    seed: int
    info: VideoInfo
    times: np.ndarray
    shots: list[tuple[int, int]]
    tracks: list[TrackStates]
    identities: list[np.ndarray]
    strengths: list[int]
    parents: list[int | None]
    failed: set[tuple[int, int]] = field(default_factory=set)

    @property
    def threshold(self) -> float:
        return similarity_threshold(self.pipe, self.options)

    def cover_found(self, number: int, box: np.ndarray) -> None:
        """Have a face covered that only a finished segment showed: a track of one frame."""
        shot = next(shot for shot in self.shots if shot[0] <= number < shot[1])
        landmarks = np.zeros((1, 5, 2), dtype=np.float32)
        track = Track(np.array([number]), np.asarray(box, np.float32)[None], landmarks, np.ones(1), shot, NOBODY)
        self.tracks.append(track_states(track, self.times))
