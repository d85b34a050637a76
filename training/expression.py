"""Facial landmarks, expression and head pose, and how well results preserve them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import dlib
import numpy as np
import onnxruntime

from nullface_pipeline.evaluation.dlib_network import models_folder
from training.portraits import Portrait


SHAPE_PREDICTOR = "models/shape_predictor_68_face_landmarks.dat"
POSE_NETWORK = Path("../shared/models/head_pose_66.onnx")
POSE_SIZE = 224
PIXEL_MEAN, PIXEL_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
MOUTH_OPEN, EYES_OPEN = 0.06, 0.18  # thresholds of the first two values of `openings`


def find_landmarks(photo: np.ndarray, portrait: Portrait) -> np.ndarray:
    """(68, 2) float64 landmarks by dlib's shape predictor, given the portrait's box."""
    x0, y0, x1, y1 = portrait.box.round().astype(int).tolist()
    shape = shape_predictor()(np.ascontiguousarray(photo), dlib.rectangle(x0, y0, x1, y1))
    return np.array([[point.x, point.y] for point in shape.parts()], dtype=np.float64)


@cache
def shape_predictor() -> Any:
    """Load dlib's landmark predictor."""
    return dlib.shape_predictor(str(models_folder() / SHAPE_PREDICTOR))


def landmark_drift(before: np.ndarray, after: np.ndarray) -> float:
    """Mean distance between two (68, 2) landmark sets, in % of the first one's eye distance."""
    eye_distance = np.linalg.norm(before[36:42].mean(axis=0) - before[42:48].mean(axis=0))
    return 100.0 * float(np.linalg.norm(after - before, axis=-1).mean() / eye_distance)


def openings(points: np.ndarray) -> tuple[float, float, float]:
    """Lip gap by mouth width, eye height by eye width, and mouth width by eye distance (smile)."""

    def distance(first: int, second: int) -> float:
        return float(np.linalg.norm(points[first] - points[second]))

    lips = distance(62, 66) / distance(48, 54)
    eyes = [(distance(i + 1, i + 5) + distance(i + 2, i + 4)) / (2.0 * distance(i, i + 3)) for i in (36, 42)]
    eye_distance = float(np.linalg.norm(points[36:42].mean(axis=0) - points[42:48].mean(axis=0)))
    return lips, sum(eyes) / 2.0, distance(48, 54) / eye_distance


class HeadPose:
    """Hopenet-type network for the yaw, pitch and roll of a face."""

    def __init__(self, path: Path | str = POSE_NETWORK) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, photo: np.ndarray, box: np.ndarray) -> np.ndarray:
        """(3,) yaw, pitch and roll in degrees of the face in a box x0, y0, x1, y1 of a photo."""
        reach = 0.25 * (box[2:] - box[:2])
        low, high = box[:2] - reach, box[2:] + reach
        scale = POSE_SIZE / (high - low)
        matrix = np.array([[scale[0], 0.0, -low[0] * scale[0]], [0.0, scale[1], -low[1] * scale[1]]])
        face = cv2.warpAffine(photo, matrix, (POSE_SIZE, POSE_SIZE), borderMode=cv2.BORDER_REPLICATE)
        pixels = ((face / 255.0 - PIXEL_MEAN) / PIXEL_STD).transpose(2, 0, 1)[None].astype(np.float32)
        return np.array([self._degrees(bins[0]) for bins in self.session.run(None, {"input": pixels})])

    @staticmethod
    def _degrees(logits: np.ndarray) -> float:
        share = np.exp(logits - logits.max())
        return float(3.0 * (np.arange(len(logits)) * share).sum() / share.sum() - 99.0)


def compare(
    portraits: Sequence[Portrait], before: Sequence[np.ndarray], after: Sequence[np.ndarray], pose: HeadPose | None
) -> dict[str, float]:
    """Utility metrics of N results: preservation of landmarks, expression and head pose.

    Args:
        portraits (`Sequence[Portrait]`): people of the photos.
        before, after (`Sequence[np.ndarray]`): (H, W, 3) uint8 RGB originals and results.
        pose (`HeadPose`, *optional*): measures the pose as well.

    Returns:
        `dict`: `landmark_drift`, in % of the eye distance; `mouth_correlation`,
            `eyes_correlation` and `smile_correlation` of `openings`; `expression_kept`, photos in %
            whose mouth and eyes stay open or closed; `pose_degrees`, the mean difference.
    """
    points = [np.stack([find_landmarks(*pair) for pair in zip(photos, portraits)]) for photos in (before, after)]
    states = [np.array([openings(face) for face in faces]) for faces in points]
    kept = (states[0][:, 0] > MOUTH_OPEN) == (states[1][:, 0] > MOUTH_OPEN)
    kept &= (states[0][:, 1] > EYES_OPEN) == (states[1][:, 1] > EYES_OPEN)
    result = {
        "landmark_drift": float(np.mean([landmark_drift(*pair) for pair in zip(*points)])),
        **{
            f"{name}_correlation": float(np.corrcoef(states[0][:, column], states[1][:, column])[0, 1])
            for column, name in enumerate(("mouth", "eyes", "smile"))
        },
        "expression_kept": 100.0 * float(kept.mean()),
    }
    if pose is not None:
        boxes = [portrait.box for portrait in portraits]
        angles = [np.stack([pose(*pair) for pair in zip(photos, boxes)]) for photos in (before, after)]
        result["pose_degrees"] = float(np.abs(angles[0] - angles[1]).mean())
    return result
