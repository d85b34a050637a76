"""nullface-tiny, the small trained model set that ships inside the package."""

from pathlib import Path
from typing import Any

import torch

from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline


TINY_FOLDER = Path(__file__).parent / "tiny"

# Chosen by the figures in docs/nullface-tiny.md: half the steps, and less guidance, which distorts less.
TINY_SETTINGS: dict[str, Any] = {"num_inference_steps": 50, "skip": 0.7, "guidance_scale": 5.0}


def load_nullface_tiny(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> StableDiffusionNullFacePipeline:
    """The complete pipeline at 128 px, face models included, by the same loading code as the real weights."""
    pipe = StableDiffusionNullFacePipeline.from_pretrained(TINY_FOLDER / "model", dtype=dtype).to(device)
    pipe.load_face_adapter(TINY_FOLDER / "face_adapter.safetensors")
    # Low, because a missed face costs more than a changed patch of background.
    pipe.load_face_models(TINY_FOLDER / "face_models", TINY_FOLDER / "face_parser", detection_threshold=0.3)
    return pipe
