"""The model that `nullface anonymize` was asked for, and what it is to do with each photo."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nullface_pipeline.cli.console import fail, notice, quiet_libraries
from nullface_pipeline.cli.photo_run import FolderRun
from nullface_pipeline.cli.threads import limit_threads
from nullface_pipeline.model_options import ModelOptions
from nullface_pipeline.protocols import NullFacePipeline
from nullface_pipeline.runs.messages import format_error


if TYPE_CHECKING:
    from nullface_pipeline.photo_files.steps import Anonymize


def load_model(options: ModelOptions) -> NullFacePipeline:
    """The pipeline with its face models, or one line and exit code 1."""
    import torch

    from nullface_pipeline.model_sets import load_model_set
    from nullface_pipeline.weights import MODELS

    quiet_libraries()
    if options.model != "tiny" and options.model not in MODELS and not Path(options.model).exists():
        notice(f"{options.model} comes from the Hub as it is now: no commit and no hash of it is pinned.")
    limit_threads(options.model)
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    try:
        return load_model_set(options.model, options.device, dtype, options.detection_threshold)
    # Libraries raise what they like for a device or a model that is not there.
    except Exception as error:
        fail(f"The model {options.model!r} could not be loaded: {format_error(error)}.")


def face_hider(
    pipe: NullFacePipeline,
    run: FolderRun,
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
    seed = secrets.randbits(SEED_BITS) if run.seed is None else run.seed
    try:
        options = replace(run.options, people=people, on_progress=on_progress)
        return photo_anonymizer(pipe, options, run.model.verifier, seed, skip_numbers)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        fail(error)
