"""nullface-tiny, the small trained model set that ships inside the package."""

from pathlib import Path

import torch

from nullface_pipeline.face_identity import DETECTION_THRESHOLD
from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline


TINY_FOLDER = Path(__file__).parent / "tiny"


def load_nullface_tiny(
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    detection_threshold: float = DETECTION_THRESHOLD,
) -> StableDiffusionNullFacePipeline:
    """The complete pipeline at 128 px, face models included, by the same loading code as the real weights.

    Its presets, in `model_index.json`, were chosen by the figures in docs/nullface-tiny.md.
    """
    pipe = StableDiffusionNullFacePipeline.from_pretrained(TINY_FOLDER / "model", dtype=dtype).to(device)
    pipe.load_face_adapter(TINY_FOLDER / "face_adapter.safetensors")
    pipe.load_face_models(
        TINY_FOLDER / "face_models", TINY_FOLDER / "face_parser", detection_threshold=detection_threshold
    )
    return pipe
