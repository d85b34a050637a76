"""NullFace: training-free, localized face anonymization as a diffusers pipeline.

Importing the package imports neither torch nor diffusers; they are loaded when the pipeline is
first used.
"""

import importlib
from typing import TYPE_CHECKING, Any


__version__ = "0.2.0"

_EXPORTS = {
    "StableDiffusionNullFacePipeline": "pipeline",
    "StableDiffusionXLNullFacePipeline": "pipeline_sdxl",
    "NullFacePipelineOutput": "pipeline_output",
    "DDPMInversion": "ddpm_inversion",
    "load_nullface_tiny": "tiny_model",
    "load_model_set": "model_sets",
    "find_people": "albums",
    "anonymize_video": "video",
    "VideoReport": "video",
    "AnonymizedPhoto": "photo_records",
    "FaceRecord": "photo_records",
    "PhotoOptions": "photo_options",
    "PhotoRefusedError": "photo_records",
    "FaceNotHiddenError": "photo_records",
    "NoFaceFoundError": "photo_records",
    "TooManyFacesError": "photo_records",
}

__all__ = ["__version__", *_EXPORTS]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .albums import find_people
    from .ddpm_inversion import DDPMInversion
    from .model_sets import load_model_set
    from .photo_options import PhotoOptions
    from .photo_records import (
        AnonymizedPhoto,
        FaceNotHiddenError,
        FaceRecord,
        NoFaceFoundError,
        PhotoRefusedError,
        TooManyFacesError,
    )
    from .pipeline import StableDiffusionNullFacePipeline
    from .pipeline_output import NullFacePipelineOutput
    from .pipeline_sdxl import StableDiffusionXLNullFacePipeline
    from .tiny_model import load_nullface_tiny
    from .video import VideoReport, anonymize_video


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
