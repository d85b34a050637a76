"""Detection and embedding of faces with InsightFace, and the embedding of the new identity."""

import importlib
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor

from .photo_records import FaceNotHiddenError
from .protocols import FaceAnalyser


# File in the pack "buffalo_l" of the recognizer that the published FaceID adapters were trained
# with.
FACEID_RECOGNIZER = "w600k_r50.onnx"


# Cosine similarity from which on two faces count as one person's: a metadata entry of the
# recognizer's ONNX file, else this default, for buffalo_l. Low on purpose: a false match costs a
# retry, a missed one costs a person's privacy.
SAME_PERSON_KEY = "same_person_similarity"
DEFAULT_SAME_PERSON_SIMILARITY = 0.3

# Lowest score that counts as a face. Lower than usual: a missed face costs more than a changed
# patch of background.
DETECTION_THRESHOLD = 0.3

# Range of useful thresholds: below it everything is a face, above it hardly anything.
DETECTION_THRESHOLDS = (0.05, 0.95)

# Largest aspect ratio of an image that a detector is given.
MAX_ASPECT = 64

# Margin around a face for its recognizer, in spans of the landmarks: larger than its aligned crop.
EMBEDDING_MARGIN = 3.0


@dataclass(frozen=True, eq=False)
class FaceLocation:
    """Box, landmarks and score of a face in a photo.

    Attributes:
        box (`np.ndarray`): (4,) float32, x0, y0, x1, y1 in photo pixels.
        landmarks (`np.ndarray`): (5, 2) float32, eye, eye, nose tip, mouth corner, mouth corner,
            from left to right.
        score (`float`): detection score in [0, 1].
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float

    @property
    def longer_side(self) -> float:
        """The longer side of the box in photo pixels."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def area(self) -> float:
        """Area of the box in square photo pixels."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


@dataclass(frozen=True, eq=False)
class DetectedFace(FaceLocation):
    """Location and embedding of a face in a photo.

    Attributes:
        embedding (`np.ndarray`): (512,) float32, unit norm.
    """

    embedding: np.ndarray


def load_face_analyser(
    source: str | Path | FaceAnalyser = "buffalo_l",
    providers: list[str] | None = None,
    detection_threshold: float = DETECTION_THRESHOLD,
    detection_size: tuple[int, int] | None = None,
) -> FaceAnalyser:
    """Load an InsightFace `FaceAnalysis`, or return a loaded one unchanged.

    Args:
        source (`str`, `Path` or `FaceAnalysis`): a pack name (downloaded by InsightFace), a folder
            of ONNX files, or a prepared object.
        providers (`list[str]`, *optional*): ONNX Runtime providers; by default CUDA if available,
            then CPU.
        detection_threshold (`float`): lowest detection score that counts as a face.
        detection_size (`tuple[int, int]`, *optional*): (width, height) that photos are scaled to
            for detection; InsightFace's own two-scale default if not given.

    Raises:
        ImportError: if InsightFace is not installed.
        RuntimeError: if the models cannot be downloaded or read, or lack a detector or a
            recognizer.
        ValueError: if the threshold is not in `DETECTION_THRESHOLDS`.
    """
    if not isinstance(source, (str, Path)):
        return source
    lowest, highest = DETECTION_THRESHOLDS
    if not lowest <= detection_threshold <= highest:
        raise ValueError(f"`detection_threshold` must be in [{lowest}, {highest}], got {detection_threshold}.")
    if importlib.util.find_spec("insightface") is None:
        raise ImportError("InsightFace is needed to find and recognize faces: `pip install insightface onnxruntime`.")
    # Not an import statement: diffusers' loader would then require the package to load the
    # pipeline.
    face_analysis = importlib.import_module("insightface.app").FaceAnalysis
    # No telemetry.
    importlib.import_module("onnxruntime").disable_telemetry_events()
    try:
        analyser = face_analysis(
            name=str(source),
            allowed_modules=["detection", "recognition"],
            providers=providers or default_providers(),
            sess_options=_session_options(),
        )
    except Exception as error:
        raise RuntimeError(
            f"The face models {str(source)!r} could not be loaded ({error}). Name a folder with a detector and a "
            "recognizer in ONNX format, or a pack that InsightFace can download, such as 'buffalo_l'."
        ) from error
    if "recognition" not in analyser.models:
        raise RuntimeError(f"The face models {str(source)!r} have no recognizer. Its embeddings are needed.")
    analyser.prepare(ctx_id=0, det_thresh=detection_threshold, det_size=detection_size)
    return analyser


def _session_options() -> Any:
    """Options of ONNX Runtime: as many threads as torch has, which sleep while they wait."""
    options = importlib.import_module("onnxruntime").SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def default_providers() -> list[str]:
    """CUDA, then CPU, if this installation of ONNX Runtime has them."""
    available = importlib.import_module("onnxruntime").get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]


def recognizer_name(analyser: FaceAnalyser) -> str:
    """File name of an analyser's recognizer, or "" without a file."""
    recognizer = getattr(analyser, "models", {}).get("recognition")
    return Path(getattr(recognizer, "model_file", None) or "").name


def same_person_similarity(analyser: FaceAnalyser) -> float:
    """Cosine similarity from which on two embeddings of an analyser count as one person's."""
    session = getattr(getattr(analyser, "models", {}).get("recognition"), "session", None)
    metadata = {} if session is None else session.get_modelmeta().custom_metadata_map
    return float(metadata.get(SAME_PERSON_KEY, DEFAULT_SAME_PERSON_SIMILARITY))


def locate_faces(analyser: FaceAnalyser, image: np.ndarray) -> list[FaceLocation]:
    """Find every face of an (H, W, 3) uint8 RGB image, largest first, without embeddings.

    Raises:
        FaceNotHiddenError: (a `RuntimeError`) if a face lies outside the image and cannot be
            covered.
    """
    bgr = _less_narrow(image)[..., ::-1]  # InsightFace takes BGR
    boxes, landmarks = analyser.det_model.detect(np.ascontiguousarray(bgr))
    if landmarks is None:
        raise RuntimeError("The detector gives no landmarks, which align a face. Use another detector.")
    faces = [
        FaceLocation(np.asarray(box[:4], dtype=np.float32), np.asarray(points, dtype=np.float32), float(box[4]))
        for box, points in zip(boxes, landmarks)
    ]
    if not all(_is_somewhere(face, max(image.shape)) for face in faces):
        raise FaceNotHiddenError(
            "The detector found a face whose box or landmarks lie outside the image, so it cannot be replaced; "
            "nothing is returned. Use another detector, or one of full precision."
        )
    return sorted(faces, key=lambda face: face.area, reverse=True)


def _is_somewhere(face: FaceLocation, longest: int) -> bool:
    """Whether a box has an area and landmarks lie near the image, all of them finite numbers."""
    x0, y0, x1, y1 = face.box
    near = (face.landmarks >= -longest) & (face.landmarks <= 2 * longest)
    return bool(np.isfinite([*face.box, face.score]).all() and x0 < x1 and y0 < y1 and near.all())


def _less_narrow(image: np.ndarray) -> np.ndarray:
    """Pad a very long (H, W, 3) image at its right or lower side with black.

    A detector scales the longer side to its input. The other side would have no pixel left.
    """
    missing = np.maximum(max(image.shape[:2]) // MAX_ASPECT - np.array(image.shape[:2]), 0)
    return np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)]) if missing.any() else image


def detect_faces(analyser: FaceAnalyser, image: np.ndarray) -> list[DetectedFace]:
    """Find and embed every face of an (H, W, 3) uint8 RGB image, largest first."""
    return embed_faces(analyser, image, locate_faces(analyser, image))


def embed_faces(analyser: FaceAnalyser, image: np.ndarray, faces: Sequence[FaceLocation]) -> list[DetectedFace]:
    """Embed faces of an (H, W, 3) uint8 RGB image, in the given order."""
    return [
        DetectedFace(face.box, face.landmarks, face.score, embed_face(analyser, image, face.landmarks))
        for face in faces
    ]


def embed_face(analyser: FaceAnalyser, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Embed the face at known landmarks.

    Args:
        image (`np.ndarray`): (H, W, 3) uint8 RGB.
        landmarks (`np.ndarray`): (5, 2) in pixels of `image`, in the order of `FaceLocation`.

    Returns:
        `np.ndarray`: (512,) float32, unit norm.
    """
    face_type = importlib.import_module("insightface.app.common").Face
    # Only the part around the face: OpenCV cannot warp images of more than 32,766 pixels a side.
    x, y, x_end, y_end = _surroundings(landmarks, image.shape[:2])
    face = face_type(kps=np.asarray(landmarks - np.array([x, y]), dtype=np.float32))
    analyser.models["recognition"].get(np.ascontiguousarray(image[y:y_end, x:x_end, ::-1]), face)
    return np.asarray(face.normed_embedding, dtype=np.float32)


def _surroundings(landmarks: np.ndarray, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1), end exclusive, not empty: the part of an (H, W) image with a face."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    reach = EMBEDDING_MARGIN * float((high - low).max()) + 1.0
    height, width = image_size
    x0, y0 = np.clip(np.floor(low - reach), 0, [width - 1, height - 1]).astype(int)
    x1, y1 = np.clip(np.ceil(high + reach) + 1, [x0 + 1, y0 + 1], [width, height]).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


def choose_face(faces: list[DetectedFace], face_index: int | None) -> DetectedFace:
    """The one face, or the chosen one of several.

    Args:
        faces (`list[DetectedFace]`): as `detect_faces` returns them, largest first.
        face_index (`int`, *optional*): 0 is the largest. None accepts exactly one face.

    Raises:
        ValueError: if there is no face, no face of that index, or several and none was chosen.
    """
    if not faces:
        raise ValueError(
            "No face was found in the image. Pass `identity_embeds`, lower `detection_threshold` in "
            "`load_face_models`, or use a picture that shows the face larger and upright."
        )
    if face_index is None and len(faces) > 1:
        boxes = ", ".join(str(face.box.round().astype(int).tolist()) for face in faces)
        raise ValueError(
            f"{len(faces)} faces were found instead of one, at {boxes} (largest first). Choose one with "
            "`face_index`, or use `pipe.anonymize(photo)` for whole photos."
        )
    index = face_index or 0
    if not 0 <= index < len(faces):
        raise ValueError(f"`face_index` is {index}, but {len(faces)} face(s) were found, counted from 0.")
    return faces[index]


def opposite_identity(
    embeds: torch.Tensor,
    identity_scale: float = 1.0,
    identity_angle: float = 0.0,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> torch.Tensor:
    """c_id = -lambda_id * e, the opposite embedding, or one at a random angle to it (section 3.3).

    Args:
        embeds (`torch.Tensor`): (B, D); only the direction is used.
        identity_scale (`float`): lambda_id, the norm of the result.
        identity_angle (`float`): degrees. -e is rotated by a random angle in [0, `identity_angle`]
            towards a random direction orthogonal to it.
        generator (`torch.Generator` or a list of B, *optional*): draws angle and direction.

    Returns:
        `torch.Tensor`: (B, D) float32, each row of norm |`identity_scale`|.
    """
    opposite = -F.normalize(embeds.float(), dim=-1)
    if identity_angle == 0.0:
        return identity_scale * opposite
    # One draw for both, so that a list of generators gives every sample its own angle and
    # direction.
    shape = (embeds.shape[0], embeds.shape[1] + 1)
    draw = randn_tensor(shape, generator=generator, device=embeds.device, dtype=torch.float32)
    share = torch.special.ndtr(draw[:, :1])  # (B, 1), uniform in [0, 1]
    direction = draw[:, 1:] - (draw[:, 1:] * opposite).sum(dim=-1, keepdim=True) * opposite
    direction = F.normalize(direction, dim=-1)
    angle = math.radians(identity_angle) * share
    return identity_scale * (angle.cos() * opposite + angle.sin() * direction)


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of the angle between two embeddings, in [-1, 1]; 1 is the same face."""
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.dot(first, second)) / max(norms, 1e-12)
