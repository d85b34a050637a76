"""First passes over a video: detect its faces and link those of one person."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nullface_pipeline.albums import group_people, person_embeddings
from nullface_pipeline.face_identity import same_person_similarity
from nullface_pipeline.photo_records import NoFaceFoundError
from nullface_pipeline.protocols import FaceAnalyser
from nullface_pipeline.video.checkpoint import VideoCheckpoint
from nullface_pipeline.video.detections import Detections, detect_faces, embed_frames
from nullface_pipeline.video.reader import VideoInfo, read_info
from nullface_pipeline.video.shots import find_shots
from nullface_pipeline.video.tracks import Track, link_faces


# Called with the step, the number of frames done, and their total if it is known.
ProgressCallback = Callable[[str, int, int | None], None]


def no_progress(step: str, done: int, total: int | None) -> None:
    """Ignore progress."""


@dataclass(frozen=True, eq=False)
class LinkedVideo:
    """Video with its detected faces, linked to tracks.

    Attributes:
        times (`np.ndarray`): (N,) float64 time of each frame in seconds.
        shots (`list[tuple[int, int]]`): first frame of each shot, and the frame after its last.
    """

    path: Path
    info: VideoInfo
    detections: Detections
    times: np.ndarray
    shots: list[tuple[int, int]]
    tracks: list[Track]


def link_video(
    analyser: FaceAnalyser, path: Path, checkpoint: VideoCheckpoint, on_progress: ProgressCallback = no_progress
) -> LinkedVideo:
    """Detect the faces of a video and link them to tracks.

    Raises:
        NoFaceFoundError: if no face is found.
        VideoError: if the video cannot be decoded or is of an unsupported kind.
    """
    info = read_info(path)
    numbers = itertools.count(1)
    detections = detect_faces(path, analyser, checkpoint.folder, lambda: on_progress("detecting", next(numbers), None))
    if not len(detections.faces):
        raise NoFaceFoundError(
            "No face was found in the video, so nothing is written. If it shows a face, lower `detection_threshold`."
        )
    times = detections.frames["pts"].astype(np.float64) * float(info.time_base)
    shots = find_shots(detections.frames["changes"])
    embeddings = embed_frames(path, analyser, detections)
    tracks = link_faces(detections, shots, times, embeddings, same_person_similarity(analyser))
    return LinkedVideo(path, info, detections, times, shots, tracks)


def consistent_identities(videos: Sequence[LinkedVideo], same_person: float) -> list[list[np.ndarray]]:
    """Identities to move away from, the same for all tracks of one person in all videos.

    Args:
        same_person (`float`): lowest cosine similarity of two faces of one person.

    Returns:
        A (512,) float32 embedding for each track of each video.
    """
    tracks = [(number, track) for number, video in enumerate(videos) for track in video.tracks]
    embeddings = [track.embedding for _, track in tracks]
    apart = np.array([[one == other and overlap_in_time(a, b) for other, b in tracks] for one, a in tracks])
    groups = group_people(embeddings, apart, same_person)
    people = dict(zip(np.unique(groups), person_embeddings(embeddings, groups)))
    identities: list[list[np.ndarray]] = [[] for _ in videos]
    for (number, _), group in zip(tracks, groups):
        identities[number].append(people[group])
    return identities


def overlap_in_time(first: Track, second: Track) -> bool:
    """Whether two tracks have a frame in common, so that they show two people."""
    return bool(np.isin(first.frames, second.frames).any())
