"""Face detection in every frame, with the difference of each frame from those before it.

Results are appended to two files of fixed-size entries, so that a stopped pass continues. The files hold boxes and
numbers only.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nullface_pipeline.face_identity import FaceLocation, embed_face
from nullface_pipeline.face_search import search_locations
from nullface_pipeline.protocols import FaceAnalyser
from nullface_pipeline.video.reader import Frame, read_frames
from nullface_pipeline.video.shots import LOOK_BACK, frame_changes, thumbnail


FRAME = np.dtype([("pts", "<i8"), ("changes", "<f4", LOOK_BACK), ("faces", "<i4")])
FACE = np.dtype([("box", "<f4", 4), ("landmarks", "<f4", (5, 2)), ("score", "<f4")])


@dataclass(frozen=True, eq=False)
class Detections:
    """Detected faces of a video.

    Attributes:
        frames (`np.ndarray`): (N,) of `FRAME`: time in the video's `time_base`, see `frame_changes`, number of faces.
        faces (`np.ndarray`): (M,) of `FACE`, those of the first frame first.
        starts (`np.ndarray`): (N + 1,) int, where each frame's faces begin in `faces`.
    """

    frames: np.ndarray
    faces: np.ndarray
    starts: np.ndarray

    def rows(self, frame: int) -> range:
        """Rows of `faces` that belong to a frame."""
        return range(self.starts[frame], self.starts[frame + 1])


def read_detections(folder: Path) -> Detections:
    """Read the results of a complete or stopped `detect_faces`."""
    frames, faces = _entries(folder / "frames.bin", FRAME), _entries(folder / "faces.bin", FACE)
    starts = np.concatenate([[0], np.cumsum(frames["faces"])]).astype(np.int64)
    # Only frames of which all faces are there.
    starts = starts[starts <= len(faces)]
    return Detections(frames[: len(starts) - 1], faces[: starts[-1]], starts)


def _entries(path: Path, kind: np.dtype) -> np.ndarray:
    if not path.exists():
        return np.zeros(0, kind)
    # The last entry may be incomplete.
    return np.fromfile(path, kind, path.stat().st_size // kind.itemsize)


def detect_faces(
    video: Path, analyser: FaceAnalyser, folder: Path, on_progress: Callable[[], None] = lambda: None
) -> Detections:
    """Detect the faces of every frame, and continue an earlier pass in the same folder.

    Args:
        analyser: InsightFace's `FaceAnalysis`.
        folder (`Path`): folder of the two files.
        tell (`Callable`): called after each frame.

    Raises:
        VideoError: if a frame is refused.
    """
    done = read_detections(folder)
    _cut(folder / "frames.bin", done.frames.nbytes)
    _cut(folder / "faces.bin", done.faces.nbytes)
    before: deque[np.ndarray] = deque(maxlen=LOOK_BACK)
    with (folder / "faces.bin").open("ab") as faces, (folder / "frames.bin").open("ab") as frames:
        for number, frame in enumerate(read_frames(video)):
            small = thumbnail(frame.pixels)
            if number >= len(done.frames):
                found = search_locations(analyser, frame.pixels)
                # The faces first: a frame counts once its own entry is there.
                faces.write(np.array([(face.box, face.landmarks, face.score) for face in found], FACE).tobytes())
                faces.flush()
                frames.write(np.array((frame.pts, frame_changes(small, before), len(found)), FRAME).tobytes())
                frames.flush()
            before.appendleft(small)
            on_progress()
    return read_detections(folder)


def _cut(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(size)


def embed_frames(video: Path, analyser: FaceAnalyser, seen: Detections) -> Iterator[np.ndarray]:
    """(faces, 512) float32 embeddings of each frame in turn. They are never written to disk."""
    for number, frame in enumerate(read_frames(video)):
        yield embed_rows(analyser, frame, seen, seen.rows(number))


def embed_rows(analyser: FaceAnalyser, frame: Frame, seen: Detections, rows: range) -> np.ndarray:
    """(len(rows), 512) float32, unit norm."""
    found = [embed_face(analyser, frame.pixels, seen.faces["landmarks"][row]) for row in rows]
    return np.stack(found) if found else np.zeros((0, 512), dtype=np.float32)


def location(faces: np.ndarray, row: int) -> FaceLocation:
    """Entry of `Detections.faces` as a `FaceLocation`."""
    return FaceLocation(faces["box"][row], faces["landmarks"][row], float(faces["score"][row]))
