"""nullface-tiny, the small trained model set that ships inside the package."""

from pathlib import Path
from typing import Any

import torch

from nullface_pipeline.face_identity import DETECTION_THRESHOLD
from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline


TINY_FOLDER = Path(__file__).parent / "tiny"

# Chosen by the figures in docs/nullface-tiny.md. Standard and strong take four steps, as many as fast.
TINY_PRESETS: dict[str, dict[str, Any]] = {
    "light": {"num_inference_steps": 50, "skip": 0.9, "guidance_scale": 3.0},
    "standard": {"num_inference_steps": 30, "skip": 0.87, "guidance_scale": 4.0},
    "strong": {"num_inference_steps": 30, "skip": 0.87, "guidance_scale": 5.0},
    "fast": {"few_steps": 4, "skip": 0.9, "guidance_scale": 4.0},
    "preview": {"few_steps": 3, "skip": 0.9, "guidance_scale": 4.0},
}
TINY_SETTINGS = TINY_PRESETS["standard"]


def load_nullface_tiny(
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    detection_threshold: float = DETECTION_THRESHOLD,
) -> StableDiffusionNullFacePipeline:
    """The complete pipeline at 128 px, face models included, by the same loading code as the real weights."""
    pipe = StableDiffusionNullFacePipeline.from_pretrained(TINY_FOLDER / "model", dtype=dtype).to(device)
    pipe.load_face_adapter(TINY_FOLDER / "face_adapter.safetensors")
    pipe.load_face_models(
        TINY_FOLDER / "face_models", TINY_FOLDER / "face_parser", detection_threshold=detection_threshold
    )
    return pipe
