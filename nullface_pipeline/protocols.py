"""Protocols of the models that the pipeline is given: face analyser, face parser and pipeline.

InsightFace, diffusers and transformers have no types of their own. These classes state what is used
of their objects.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol


if TYPE_CHECKING:
    import numpy as np
    from diffusers import UNet2DConditionModel


# Arguments of the pipeline by name, and the configuration of a diffusers model: values of any JSON
# type.
Settings = dict[str, Any]
Config = Mapping[str, Any]


class FaceDetector(Protocol):
    """A detector of InsightFace.

    Attributes:
        det_thresh (`float`): lowest score that counts as a face.
    """

    det_thresh: float

    def detect(self, img: "np.ndarray", /) -> "tuple[np.ndarray, np.ndarray | None]":
        """Find faces in an (H, W, 3) uint8 BGR image.

        Returns:
            (N, 5) float32 boxes x0, y0, x1, y1 with a score, and (N, 5, 2) float32 landmarks or
            None.
        """


class FaceRecognizer(Protocol):
    """A recognizer of InsightFace. Its `model_file` and `session` are optional."""

    def get(self, img: "np.ndarray", face: object, /) -> "np.ndarray":
        """Embed the face at `face.kps` of an (H, W, 3) uint8 BGR image into `face.embedding`."""


class FaceAnalyser(Protocol):
    """InsightFace's `FaceAnalysis`: a detector and a recognizer.

    Attributes:
        models (`Mapping`): loaded models by task; `models["recognition"]` is a [`FaceRecognizer`].
        det_model (`FaceDetector`): the detector.
    """

    @property
    def models(self) -> Mapping[str, Any]: ...

    @property
    def det_model(self) -> FaceDetector: ...


class FaceSegmenter(Protocol):
    """A face parser: semantic segmentation of aligned faces.

    Attributes:
        labels (`tuple[str, ...]`): CelebAMask-HQ label names, in the order of their indices.
    """

    @property
    def labels(self) -> tuple[str, ...]: ...

    def __call__(self, image: "np.ndarray", /) -> "np.ndarray":
        """Label every pixel of an (H, W, 3) uint8 RGB image; (H, W) int64 indices into `labels`."""


class NullFacePipeline(Protocol):
    """A pipeline of this package, as the photo and video workflows use it.

    Attributes:
        unet: the UNet of diffusers.
        vae_scale_factor (`int`): pixels per latent.
        face_analyser (`FaceAnalyser`), face_parser (`FaceSegmenter`, *optional*): of
            `load_face_models`.
        presets (`Mapping`): the settings of each preset, by name.
        prepare_image, prepare_mask, invert, __call__: of [`NullFaceMixin`].
    """

    unet: "UNet2DConditionModel"
    vae_scale_factor: int
    face_analyser: FaceAnalyser
    face_parser: FaceSegmenter

    @property
    def presets(self) -> Mapping[str, Settings]: ...

    @property
    def prepare_image(self) -> Callable: ...

    @property
    def prepare_mask(self) -> Callable: ...

    @property
    def invert(self) -> Callable: ...

    @property
    def anonymize(self) -> Callable: ...

    @property
    def __call__(self) -> Callable: ...
