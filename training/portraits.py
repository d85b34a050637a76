"""Portraits for the training and evaluation of nullface-tiny: one photograph per person.

Columns of the parquet file: `id`, `source`, `split`, `image` (JPEG bytes), `colour`, `box` and
`landmarks` (68 iBUG points).
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from nullface_pipeline.face_crops import FaceCrop


@dataclass(frozen=True)
class Portrait:
    """One photograph of one person, with coordinates in its pixels."""

    id: str
    source: str
    colour: bool
    jpeg: bytes
    box: np.ndarray  # (4,) float32 x0, y0, x1, y1, from the brows to the chin
    landmarks: np.ndarray  # (68, 2) float32, iBUG order

    def image(self) -> np.ndarray:
        """Decode the photograph as (H, W, 3) uint8 RGB."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg)).convert("RGB"))

    def keypoints(self) -> np.ndarray:
        """(5, 2) float32 keypoints in InsightFace's order: eyes, nose tip, mouth corners."""
        return five_points(self.landmarks)

    def face_crop(self, size: int) -> FaceCrop:
        """Crop that `pipe.anonymize` would use."""
        return FaceCrop.from_landmarks(self.keypoints(), size)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Reduce (68, 2) iBUG landmarks to InsightFace's five keypoints, (5, 2) float32."""
    eyes = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]]).astype(np.float32)


def load_portraits(path: Path | str, split: str) -> list[Portrait]:
    """Read the portraits of one split, `train` or `validation`, in file order."""
    columns = ["id", "source", "image", "colour", "box", "landmarks"]
    table = pq.read_table(path, columns=columns, filters=[("split", "=", split)])
    return [
        Portrait(
            id=row["id"],
            source=row["source"],
            colour=row["colour"],
            jpeg=row["image"],
            box=np.asarray(row["box"], dtype=np.float32),
            landmarks=np.asarray(row["landmarks"], dtype=np.float32),
        )
        for row in table.to_pylist()
    ]
