"""Anonymization of one photo file, with its transparency."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import PIL.Image

from nullface_pipeline.photo_files import PhotoFile, alpha_views, composed_views
from nullface_pipeline.photo_files.steps import Anonymize
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.photo_records import AnonymizedPhoto, FaceRecord, PhotoRefusedError
from nullface_pipeline.protocols import FaceAnalyser, NullFacePipeline
from nullface_pipeline.runs.seeds import photo_seed


if TYPE_CHECKING:
    from nullface_pipeline.face_identity import FaceLocation
    from nullface_pipeline.photo_records import Box


def photo_anonymizer(
    pipe: NullFacePipeline,
    options: PhotoOptions,
    verifier: str | None,
    seed: int,
    skip_numbers: Mapping[str, Sequence[int]] | None = None,
) -> Anonymize:
    """Return a function that anonymizes a photo file. The noise depends on the photo's name.

    Args:
        verifier (`str`, *optional*): InsightFace pack of `PhotoOptions.verifier`, by name or
            folder.
        seed (`int`): seed of the run, see `photo_seed`.
        skip_numbers (`Mapping[str, Sequence[int]]`, *optional*): numbers in the preview of the
            faces to keep unchanged, by the photo's name.

    Raises:
        ImportError, OSError, RuntimeError, TypeError, ValueError: as `with_loaded_models`.
    """
    options = with_loaded_models(pipe, options, verifier)

    def anonymize(file: PhotoFile, name: str) -> AnonymizedPhoto:
        # In an album, the noise depends on the person and not on the photo.
        own = replace(options, seed=seed if options.identity == "consistent" else photo_seed(seed, name))
        if numbers := (skip_numbers or {}).get(name):
            own = replace(own, skip_faces=(*own.skip_faces, *_numbered_boxes(pipe.face_analyser, file, numbers)))
        return anonymize_file(pipe, file, own)

    return anonymize


def with_loaded_models(pipe: NullFacePipeline, options: PhotoOptions, verifier: str | None) -> PhotoOptions:
    """Load the verifier, embed the reference photos, and check the options against the pipeline.

    Args:
        verifier (`str`, *optional*): InsightFace pack of `PhotoOptions.verifier`, by name or
            folder.

    Raises:
        ImportError, OSError, RuntimeError, TypeError, ValueError: if the verifier cannot be loaded,
            the pipeline does not support the options, or a reference photo does not show exactly
            one face.
    """
    from nullface_pipeline.face_identity import load_face_analyser
    from nullface_pipeline.fetch_weights import fetch_pack
    from nullface_pipeline.photo import check_pipeline, read_references

    if verifier is not None:
        fetch_pack(verifier)
        options = replace(options, verifier=load_face_analyser(verifier))
    check_pipeline(pipe, options)
    return replace(options, skip_faces=read_references(pipe.face_analyser, options.skip_faces))


def _numbered_boxes(analyser: FaceAnalyser, file: PhotoFile, numbers: Sequence[int]) -> "list[Box]":
    """Boxes of faces by their numbers in the preview."""
    import numpy as np

    from nullface_pipeline.face_search import search_faces
    from nullface_pipeline.photo import numbered_face

    faces = search_faces(analyser, np.asarray(file.image))
    return [numbered_face(faces, number).box.tolist() for number in numbers]


def anonymize_file(pipe: NullFacePipeline, file: PhotoFile, options: PhotoOptions) -> AnonymizedPhoto:
    """Anonymize a photo file as `pipe.anonymize` does, and search its transparency for faces.

    Args:
        pipe (`StableDiffusionNullFacePipeline`): pipeline with adapter and face models.

    Raises:
        PhotoRefusedError: as `pipe.anonymize`, and if a face is detected in the transparency, or
            only over black or white.
        RuntimeError, TypeError, ValueError: as `pipe.anonymize`.
    """
    if _shown_faces(pipe.face_analyser, alpha_views(file), known=()):
        raise PhotoRefusedError("Its transparency shows a face: save the photo without transparency first.")
    result = pipe.anonymize(file.image, options)
    if _shown_faces(pipe.face_analyser, composed_views(file, result.image), known=result.faces):
        raise PhotoRefusedError(
            "A face is visible only with its transparency: save the photo without transparency first."
        )
    return result


def _shown_faces(
    analyser: FaceAnalyser, views: Iterable[PIL.Image.Image], known: Sequence[FaceRecord]
) -> "list[FaceLocation]":
    """Detected faces in any of the pictures that match no known face."""
    import numpy as np

    from nullface_pipeline.face_identity import FaceLocation
    from nullface_pipeline.face_search import UNUSUAL_MARGIN, search_locations
    from nullface_pipeline.photo import unmatched_faces

    # A higher score than for photos, because the views cause more false detections.
    score = analyser.det_model.det_thresh + UNUSUAL_MARGIN
    boxes = [FaceLocation(np.array(face.box, dtype=np.float32), np.zeros((5, 2)), face.score) for face in known]
    return [
        face
        for view in views
        for face in unmatched_faces(search_locations(analyser, np.asarray(view)), boxes)
        if face.score >= score
    ]
