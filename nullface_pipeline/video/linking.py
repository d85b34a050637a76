"""The first passes over a video: its faces, and which of them are one person."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nullface_pipeline.albums import group_people, person_embeddings
from nullface_pipeline.face_identity import same_person_similarity
from nullface_pipeline.photo_records import NoFaceFoundError
from nullface_pipeline.protocols import FaceAnalyser
from nullface_pipeline.video.checkpoint import VideoCheckpoint
from nullface_pipeline.video.detections import Detections, detect_faces, embed_frames
from nullface_pipeline.video.progress import ProgressCallback, no_progress
from nullface_pipeline.video.reader import VideoInfo, read_info
from nullface_pipeline.video.shots import find_shots
from nullface_pipeline.video.tracks import Track, link_faces


@dataclass(frozen=True, eq=False)
class LinkedVideo:
    """A video with its detected faces, linked to tracks.

    Attributes:
        times (`np.ndarray`): (N,) seconds, of each frame.
        shots (`list[tuple[int, int]]`): first frame, and the frame after the last.
    """

    path: Path
    info: VideoInfo
    seen: Detections
    times: np.ndarray
    shots: list[tuple[int, int]]
    tracks: list[Track]


def link_video(
    analyser: FaceAnalyser, path: Path, checkpoint: VideoCheckpoint, on_progress: ProgressCallback = no_progress
) -> LinkedVideo:
    """Find the faces of a video and who they are.

    Raises:
        NoFaceFoundError: if it shows none.
        VideoError: if it is refused.
    """
    info = read_info(path)
    numbers = itertools.count(1)
    seen = detect_faces(path, analyser, checkpoint.folder, lambda: on_progress("looking", next(numbers), None))
    if not len(seen.faces):
        raise NoFaceFoundError(
            "No face was found in the video, so nothing was anonymized and nothing is written. Lower the detection threshold "
            "if it shows one."
        )
    times = seen.frames["pts"].astype(np.float64) * float(info.time_base)
    shots = find_shots(seen.frames["changes"])
    embeddings = embed_frames(path, analyser, seen)
    tracks = link_faces(seen, shots, times, embeddings, same_person_similarity(analyser))
    return LinkedVideo(path, info, seen, times, shots, tracks)


def consistent_identities(videos: Sequence[LinkedVideo], same_person: float) -> list[list[np.ndarray]]:
    """Identities to move away from, for each track of each video, so that a person gets one new face in all videos.

    Args:
        same_person (`float`): similarity from which on two faces are taken for one person.
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
    """Whether two tracks of one video show two people at once."""
    return bool(np.isin(first.frames, second.frames).any())
