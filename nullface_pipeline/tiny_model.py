"""nullface-tiny, the small trained model set inside the package."""

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
    """Load the complete 128 px pipeline with its face models, by the code for the real weights.

    `model_index.json` holds its presets.
    """
    pipe = StableDiffusionNullFacePipeline.from_pretrained(TINY_FOLDER / "model").to(device, dtype)
    pipe.load_face_adapter(TINY_FOLDER / "face_adapter.safetensors")
    pipe.load_face_models(
        TINY_FOLDER / "face_models", TINY_FOLDER / "face_parser", detection_threshold=detection_threshold
    )
    return pipe
