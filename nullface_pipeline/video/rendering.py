"""Plan of a video, made before its first segment is rendered."""

from dataclasses import dataclass, field

import numpy as np

from nullface_pipeline.photo import similarity_threshold
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.protocols import NullFacePipeline
from nullface_pipeline.video.reader import VideoInfo
from nullface_pipeline.video.states import TrackStates, track_states
from nullface_pipeline.video.tracks import Track


# Embedding of an unknown identity; its similarity to any other is 0.
NO_IDENTITY = np.zeros(512, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Rendering:
    """Plan of a video: how each of its tracks is anonymized.

    Attributes:
        pipe (`StableDiffusionNullFacePipeline`): pipeline with adapter and face models.
        options (`PhotoOptions`): options of each face.
        seed (`int`): seed of the video. The noise of a track depends on it and on the track's
            index.
        info (`VideoInfo`): properties of the video.
        times (`np.ndarray`): (N,) float64 time of each frame in seconds.
        shots (`list[tuple[int, int]]`): first frame of each shot, and the frame after its last.
        tracks (`list[TrackStates]`): linked tracks, and after them those that `cover_found` adds.
        identities (`list[np.ndarray]`): (512,) float32 identity to move away from, of each linked
            track.
        strengths (`list[int]`): attempt number that `stronger` gets, of each linked track.
        parents (`list[int | None]`): index of the track that each linked track is a part of.
        failed (`set[tuple[int, int]]`): frame and track of faces that could not be replaced and are
            covered. Rendering adds to it.
        generated (`set[tuple[int, int]]`): frame and track of faces that are generated outside key
            frames, because the average of the key frames failed. Rendering adds to it.
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
    generated: set[tuple[int, int]] = field(default_factory=set)

    @property
    def threshold(self) -> float:
        return similarity_threshold(self.pipe, self.options)

    def cover_found(self, number: int, box: np.ndarray) -> None:
        """Add a track of one frame for a face that was detected only in an encoded segment."""
        shot = next(shot for shot in self.shots if shot[0] <= number < shot[1])
        landmarks = np.zeros((1, 5, 2), dtype=np.float32)
        track = Track(np.array([number]), np.asarray(box, np.float32)[None], landmarks, np.ones(1), shot, NO_IDENTITY)
        self.tracks.append(track_states(track, self.times))
