"""Recognizers of an evaluation, and the face detector.

A recognizer that steered a method favours it: nullface-tiny's own, InsightFace's buffalo_l for the
published adapters, and those marked `steered`. It is labelled *not independent*.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from skimage.transform import estimate_transform

from nullface_pipeline.evaluation.rates import normalized
from nullface_pipeline.face_crops import FaceCrop
from nullface_pipeline.face_identity import FACEID_RECOGNIZER, FaceLocation, embed_face, locate_faces
from nullface_pipeline.fetch_weights import file_hash
from nullface_pipeline.model_sets import load_detector
from nullface_pipeline.protocols import FaceAnalyser
from nullface_pipeline.runs.messages import format_error


# Positions of the five landmarks in a face of 112 px: ArcFace's, shared by AdaFace and most others.
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ARCFACE_SIZE = 112

# The same in dlib's faces of 150 px, which dlib aligns by 68 points: median of 1,021 portraits.
DLIB_TEMPLATE = np.array([[47.2, 45.2], [99.4, 45.3], [74.6, 75.9], [49.8, 104.0], [97.0, 104.0]])

# Increase when the preprocessing of embeddings changes: part of the cache key.
PREPROCESSING = "1"

T = TypeVar("T")

ONNX_FLAGS = ("rgb", "bgr", "centred", "steered")


class MissingModelError(Exception):
    """Missing model or package; the message starts with "needs" and names its source."""


class Recognizer(Protocol):
    """Turns a face into an embedding.

    Attributes:
        name (`str`): name in the tables.
        independent (`bool`): whether it steered none of the evaluated methods.
        centred (`bool`): whether the gallery's mean is subtracted first, for recognizers whose
            embeddings of different people are similar.
        description (`str`): file, input size and colour order.
        fingerprint (`str`): hash of the weights, with the preprocessing; part of the cache key.
    """

    name: str
    independent: bool
    centred: bool
    description: str
    fingerprint: str

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Embed the face at (5, 2) landmarks in an (H, W, 3) uint8 RGB image; (D,) float32."""


def aligned_face(image: np.ndarray, landmarks: np.ndarray, template: np.ndarray, size: int) -> np.ndarray:
    """Align a face to a template by a similarity transform; (size, size, 3) uint8 RGB."""
    transform = estimate_transform("similarity", landmarks, template)
    # Before scikit-image 0.26, a failed estimate consists of NaN.
    if not transform or np.isnan(transform.params).any():
        raise ValueError(f"All five landmarks are the same point: {landmarks.tolist()}.")
    return FaceCrop(transform.params[:2], size).crop_image(image)


class OnnxRecognizer:
    """Recognizer in an ONNX file: ArcFace's alignment, input (value - 127.5) / 127.5.

    Args:
        name (`str`): name in the tables.
        path (`Path`): the file. Its input gives the size of faces, 112 px if it is dynamic.
        bgr (`bool`): whether its input is BGR, as AdaFace's is.
        centred, steered (`bool`): as in `Recognizer`; `steered` is the opposite of `independent`.

    Raises:
        ValueError: if the file is not such a network.
    """

    def __init__(self, name: str, path: Path, bgr: bool = False, centred: bool = False, steered: bool = False) -> None:
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.input = self.session.get_inputs()[0]
            _, channels, height, width = self.input.shape
        # ONNX Runtime has one exception type per error code, without a common base class.
        except Exception as error:
            raise ValueError(f"{path} is not a recognizer in ONNX format with one (N, 3, H, W) input.") from error
        if channels != 3 or height != width:
            raise ValueError(f"{path} takes inputs of {self.input.shape}, but (N, 3, size, size) is needed.")
        self.size = height if isinstance(height, int) else ARCFACE_SIZE
        self.bgr = bgr
        self.name, self.centred = name, centred
        self.independent = not steered and path.name != FACEID_RECOGNIZER
        self.description = f"{path.name}, {self.size} px, {'BGR' if bgr else 'RGB'}"
        self.fingerprint = f"{file_hash(path)} {self.size} {bgr} {PREPROCESSING}"

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        template = ARCFACE_TEMPLATE * (self.size / ARCFACE_SIZE)
        face = aligned_face(image, landmarks, template, self.size)
        pixels = (face[..., ::-1] if self.bgr else face).transpose(2, 0, 1)[None]
        output = self.session.run(None, {self.input.name: (pixels.astype(np.float32) - 127.5) / 127.5})[0]
        return normalized(np.asarray(output).reshape(1, -1))[0]


class InsightFaceRecognizer:
    """Recognizer of an InsightFace pack, as it steers the pipelines of this package."""

    independent = False
    centred = False

    def __init__(self, name: str, analyser: FaceAnalyser) -> None:
        self.name, self.analyser = name, analyser
        path = Path(analyser.models["recognition"].model_file)
        self.description = f"{path.name}, InsightFace"
        self.fingerprint = f"{file_hash(path)} insightface {PREPROCESSING}"

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        return embed_face(self.analyser, image, landmarks)


class DlibRecognizer:
    """dlib's recognizer, aligned by 5 landmarks instead of 68; always centred."""

    name = "dlib"
    centred = True
    description = "dlib_face_recognition_resnet_model_v1.dat, 150 px, RGB"

    def __init__(self, steered: bool = False) -> None:
        from nullface_pipeline.evaluation.dlib_network import WEIGHTS, load_dlib_network, models_folder

        try:
            path = models_folder() / WEIGHTS
        except ImportError as error:
            raise MissingModelError(
                "needs the package face_recognition_models: pip install face_recognition_models"
            ) from error
        self.independent = not steered
        self.network = load_dlib_network(path)
        self.fingerprint = f"{file_hash(path)} {DLIB_TEMPLATE.tolist()} {PREPROCESSING}"

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        import torch

        from nullface_pipeline.evaluation.dlib_network import CHIP_SIZE

        face = aligned_face(image, landmarks, DLIB_TEMPLATE, CHIP_SIZE)
        with torch.inference_mode():
            return self.network(torch.from_numpy(face).permute(2, 0, 1)[None].float())[0].numpy()


class Detector:
    """Face detector.

    Args:
        name (`str`): "tiny" (nullface-tiny) or "buffalo_l" (InsightFace).

    Raises:
        MissingModelError: if it cannot be loaded or fetched.
    """

    def __init__(self, name: str = "tiny") -> None:
        self.analyser = load_analyser(name)
        self.name = name
        self.fingerprint = (
            f"{file_hash(Path(self.analyser.models['detection'].model_file))} {self.analyser.det_model.det_thresh}"
        )

    def largest(self, image: np.ndarray) -> FaceLocation | None:
        """Detect the largest face of an (H, W, 3) uint8 RGB image."""
        return next(iter(locate_faces(self.analyser, image)), None)

    def at(self, image: np.ndarray, landmarks: np.ndarray) -> FaceLocation | None:
        """Detect the largest face whose box contains the nose of (5, 2) landmarks."""
        return next((face for face in locate_faces(self.analyser, image) if contains(face, landmarks[2])), None)


def contains(face: FaceLocation, point: np.ndarray) -> bool:
    """Whether a face's box contains an (x, y) point."""
    return bool((face.box[:2] <= point).all() and (point <= face.box[2:]).all())


def load_available(makers: Mapping[str, Callable[[], T]]) -> tuple[list[T], dict[str, str]]:
    """Load models; returns the available ones, and the needs of the missing ones by name."""
    loaded, missing = [], {}
    for name, make in makers.items():
        try:
            loaded.append(make())
        except MissingModelError as error:
            missing[name] = str(error)
    return loaded, missing


def load_recognizer(value: str) -> Recognizer:
    """Load a recognizer by its option.

    Args:
        value (`str`): "tiny", "buffalo_l", "dlib" or "dlib,steered", or `NAME=FILE.onnx` with
            comma-separated flags: `bgr` or `rgb` (default rgb; bgr for the name adaface),
            `centred`, `steered`.

    Raises:
        MissingModelError: if its model is missing.
        ValueError: if it is not one of these.
    """
    if value in ("dlib", "dlib,steered"):
        return DlibRecognizer(steered=value != "dlib")
    if value in ("tiny", "buffalo_l"):
        return InsightFaceRecognizer(value, load_analyser(value))
    name, _, rest = value.partition("=")
    file, *flags = rest.split(",")
    if not (name and file):
        raise ValueError(f"{value!r} is not a recognizer. Pass tiny, buffalo_l, dlib or NAME=FILE.onnx.")
    if unknown := set(flags) - set(ONNX_FLAGS):
        raise ValueError(f"{value!r} has unknown flags {', '.join(sorted(unknown))}. Pass {', '.join(ONNX_FLAGS)}.")
    if not Path(file).is_file():
        raise ValueError(f"{value!r}: the file {file} does not exist.")
    bgr = "bgr" in flags or (name == "adaface" and "rgb" not in flags)
    return OnnxRecognizer(name, Path(file), bgr, "centred" in flags, "steered" in flags)


def load_analyser(name: str) -> FaceAnalyser:
    """Load InsightFace's `FaceAnalysis` "tiny" or "buffalo_l"; raises MissingModelError."""
    try:
        return load_detector(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingModelError(
            f"needs InsightFace's pack {name}, which could not be loaded: {format_error(error)}"
        ) from error
