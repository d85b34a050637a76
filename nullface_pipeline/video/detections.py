"""Face detection in every frame, with the change from the frames before it.

Results are appended to two files of fixed-size records, so that a stopped pass can be resumed.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nullface_pipeline.face_identity import embed_face
from nullface_pipeline.face_search import search_locations
from nullface_pipeline.protocols import FaceAnalyser
from nullface_pipeline.video.reader import read_frames
from nullface_pipeline.video.shots import LOOK_BACK, frame_changes, thumbnail


FRAME = np.dtype([("pts", "<i8"), ("changes", "<f4", LOOK_BACK), ("faces", "<i4")])
FACE = np.dtype([("box", "<f4", 4), ("landmarks", "<f4", (5, 2)), ("score", "<f4")])


@dataclass(frozen=True, eq=False)
class Detections:
    """Detected faces of a video.

    Attributes:
        frames (`np.ndarray`): (N,) of dtype `FRAME`: time in units of the video's `time_base`,
            output of `frame_changes`, and number of faces.
        faces (`np.ndarray`): (M,) of dtype `FACE`, ordered by frame; boxes and landmarks in pixels.
        starts (`np.ndarray`): (N + 1,) int64, index in `faces` of the first face of each frame.
    """

    frames: np.ndarray
    faces: np.ndarray
    starts: np.ndarray

    def rows(self, frame: int) -> range:
        """Rows of `faces` that belong to a frame."""
        return range(self.starts[frame], self.starts[frame + 1])


def read_detections(folder: Path) -> Detections:
    """Read the results of a complete or stopped `detect_faces`, without incomplete frames."""
    frames, faces = _records(folder / "frames.bin", FRAME), _records(folder / "faces.bin", FACE)
    starts = np.concatenate([[0], np.cumsum(frames["faces"])]).astype(np.int64)
    starts = starts[starts <= len(faces)]
    return Detections(frames[: len(starts) - 1], faces[: starts[-1]], starts)


def _records(path: Path, dtype: np.dtype) -> np.ndarray:
    if not path.exists():
        return np.zeros(0, dtype)
    # The last record may be incomplete.
    return np.fromfile(path, dtype, path.stat().st_size // dtype.itemsize)


def detect_faces(
    video: Path, analyser: FaceAnalyser, folder: Path, on_progress: Callable[[], None] = lambda: None
) -> Detections:
    """Detect the faces of every frame, or resume a stopped pass.

    Args:
        analyser (`FaceAnalyser`): InsightFace's `FaceAnalysis`.
        folder (`Path`): folder of the two files.
        on_progress (`Callable`): called after each frame.

    Raises:
        VideoError: if the video cannot be decoded.
    """
    done = read_detections(folder)
    _truncate(folder / "frames.bin", done.frames.nbytes)
    _truncate(folder / "faces.bin", done.faces.nbytes)
    before: deque[np.ndarray] = deque(maxlen=LOOK_BACK)
    with (folder / "faces.bin").open("ab") as faces, (folder / "frames.bin").open("ab") as frames:
        for number, frame in enumerate(read_frames(video)):
            small = thumbnail(frame.pixels)
            if number >= len(done.frames):
                found = search_locations(analyser, frame.pixels)
                # The faces first: a frame counts once its own record is complete.
                faces.write(np.array([(face.box, face.landmarks, face.score) for face in found], FACE).tobytes())
                faces.flush()
                frames.write(np.array((frame.pts, frame_changes(small, before), len(found)), FRAME).tobytes())
                frames.flush()
            before.appendleft(small)
            on_progress()
    return read_detections(folder)


def _truncate(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(size)


def embed_frames(video: Path, analyser: FaceAnalyser, detections: Detections) -> Iterator[np.ndarray]:
    """Yield the (faces, 512) float32 unit-norm embeddings of each frame; they stay in memory."""
    for number, frame in enumerate(read_frames(video)):
        landmarks = detections.faces["landmarks"][list(detections.rows(number))]
        embeddings = [embed_face(analyser, frame.pixels, each) for each in landmarks]
        yield np.stack(embeddings) if embeddings else np.zeros((0, 512), dtype=np.float32)
