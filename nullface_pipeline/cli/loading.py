"""Loading of the model for the commands that anonymize photos and videos."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nullface_pipeline.cli.console import fail, notice, quiet_libraries
from nullface_pipeline.cli.photo_run import FolderRun
from nullface_pipeline.cli.threads import limit_threads
from nullface_pipeline.model_options import ModelOptions
from nullface_pipeline.photo_records import OptionError
from nullface_pipeline.protocols import NullFacePipeline
from nullface_pipeline.runs.messages import format_error


if TYPE_CHECKING:
    import numpy as np

    from nullface_pipeline.photo_files.steps import Anonymize


def load_model(options: ModelOptions) -> NullFacePipeline:
    """Load the pipeline with its face models. On failure, print an error and exit."""
    import torch

    from nullface_pipeline.model_sets import load_model_set
    from nullface_pipeline.weights import MODELS

    quiet_libraries()
    if options.model != "tiny" and options.model not in MODELS and not Path(options.model).exists():
        notice(f"The newest revision of {options.model} is loaded from the Hub, without a pinned commit or hash.")
    limit_threads(options.model)
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    try:
        return load_model_set(options.model, options.device, dtype, options.detection_threshold)
    except OptionError as error:
        fail(error)
    # Libraries raise errors of any type for a damaged model.
    except Exception as error:
        fail(f"The model {options.model!r} could not be loaded: {format_error(error)}.")


def load_anonymizer(
    pipe: NullFacePipeline,
    run: FolderRun,
    people: "np.ndarray | None" = None,
    skip_numbers: dict[str, list[int]] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> "Anonymize":
    """Create the function that anonymizes a photo. On failure, print an error and exit.

    Args:
        people (`np.ndarray`, *optional*): (P, 512) float32, see `PhotoOptions`.
        skip_numbers (`dict[str, list[int]]`, *optional*): see `photo_anonymizer`.
        on_progress (`Callable`, *optional*): see `PhotoOptions`.
    """
    from nullface_pipeline.photo_files.anonymize import photo_anonymizer
    from nullface_pipeline.runs.seeds import SEED_BITS

    # The seed is secret: with it, an attacker can reproduce the result of a known photo.
    seed = secrets.randbits(SEED_BITS) if run.seed is None else run.seed
    try:
        options = replace(run.options, people=people, on_progress=on_progress)
        return photo_anonymizer(pipe, options, run.model.verifier, seed, skip_numbers)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        fail(error)
