"""The model that `nullface anonymize` was asked for, and what it is to do with each photo."""

import os
import secrets
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nullface_pipeline.cli.asked import Asked
from nullface_pipeline.cli.console import TINY_NOTICE, as_options, console, fail, quiet_libraries, words


if TYPE_CHECKING:
    from nullface_pipeline.photo_files import PhotoFile
    from nullface_pipeline.photo_records import AnonymizedPhoto


def load_model(asked: Asked) -> Any:
    """The pipeline with its face models, or one line and exit code 1."""
    import torch

    from nullface_pipeline.model_sets import load_model_set

    quiet_libraries()
    if asked.model == "tiny":
        console.print(TINY_NOTICE, soft_wrap=True)
    dtype = None if asked.dtype is None else getattr(torch, asked.dtype)
    try:
        return load_model_set(asked.model, asked.device, dtype, asked.detection_threshold)
    # Libraries raise what they like for a device or a model that is not there.
    except Exception as error:
        fail(f"The model {asked.model!r} could not be loaded: {words(error).splitlines()[0]}")


def face_hider(pipe: Any, asked: Asked) -> "Callable[[PhotoFile, str], AnonymizedPhoto]":
    """What hides the faces of a photo whose result has this name, or one line and exit code 1."""
    from nullface_pipeline.face_identity import load_face_analyser
    from nullface_pipeline.photo import check_pipeline
    from nullface_pipeline.photo_folder import anonymize_file

    try:
        judge = None if asked.judge is None else load_face_analyser(asked.judge)
        options = replace(asked.photo_options, judge=judge, **asked.settings)
        check_pipeline(pipe, options)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        fail(as_options(words(error)))
    # Whoever knows the seed can make the same result of a photo, and so recognize it.
    seed = secrets.randbits(62) if asked.seed is None else asked.seed

    def hide_faces(file: "PhotoFile", name: str) -> "AnonymizedPhoto":
        # A photo's noise depends on its name, not on which others are run with it, so that a resumed run is the same.
        return anonymize_file(pipe, file, replace(options, seed=seed + zlib.crc32(os.fsencode(name))))

    return hide_faces
