"""The model that `nullface anonymize` was asked for, and what it is to do with each photo."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nullface_pipeline.cli.asked import Asked, AskedOfFaces
from nullface_pipeline.cli.console import fail, notice, quiet_libraries
from nullface_pipeline.cli.threads import limit_threads
from nullface_pipeline.protocols import NullFacePipeline
from nullface_pipeline.runs.messages import format_error


if TYPE_CHECKING:
    from nullface_pipeline.photo_files.steps import Anonymize


def load_model(asked: AskedOfFaces) -> Any:
    """The pipeline with its face models, or one line and exit code 1."""
    import torch

    from nullface_pipeline.model_sets import load_model_set
    from nullface_pipeline.weights import MODELS

    quiet_libraries()
    if asked.model != "tiny" and asked.model not in MODELS and not Path(asked.model).exists():
        notice(f"{asked.model} comes from the Hub as it is now: no commit and no hash of it is pinned.")
    limit_threads(asked.model)
    dtype = None if asked.dtype is None else getattr(torch, asked.dtype)
    try:
        return load_model_set(asked.model, asked.device, dtype, asked.detection_threshold)
    # Libraries raise what they like for a device or a model that is not there.
    except Exception as error:
        fail(f"The model {asked.model!r} could not be loaded: {format_error(error)}.")


def face_hider(
    pipe: NullFacePipeline,
    asked: Asked,
    people: Any | None = None,
    skip_numbers: dict[str, list[int]] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> "Anonymize":
    """What hides the faces of a photo of this name, see `PhotoJob.name`, or one line and exit code 1.

    Args:
        people (`np.ndarray`, *optional*): (P, 512), see `PhotoOptions`.
        skip_numbers (`dict[str, list[int]]`, *optional*): see `photo_anonymizer`.
        on_progress (`Callable`, *optional*): see `PhotoOptions`.
    """
    from nullface_pipeline.photo_files.anonymize import photo_anonymizer
    from nullface_pipeline.runs.seeds import SEED_BITS

    # Whoever knows the seed can make the same result of a photo, and so recognize it.
    seed = secrets.randbits(SEED_BITS) if asked.seed is None else asked.seed
    try:
        options = replace(asked.photo_options, people=people, on_progress=on_progress)
        return photo_anonymizer(pipe, options, asked.verifier, seed, skip_numbers)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        fail(error)
