"""The reversal attack: a pipeline is run on a method's results, over a grid of settings (the paper's figure 10)."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import PIL.Image
import torch
from rich.progress import track

from nullface_pipeline.evaluation.rates import Gallery, mated_ranks
from nullface_pipeline.evaluation.recognizers import Recognizer
from nullface_pipeline.evaluation.results import Result, ReversalResult
from nullface_pipeline.face_crops import FaceCrop, edge_feather
from nullface_pipeline.face_identity import embed_face
from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline


GUIDANCE_SCALES = (2.5, 5.0, 10.0)
SKIPS = (0.5, 0.7)
STEPS = 50
# The attack takes seconds a person and setting.
NUM_SUBJECTS = 48


def reverse_results(
    pipe: StableDiffusionNullFacePipeline,
    method: str,
    results: Sequence[Result],
    recognizers: Sequence[Recognizer],
    galleries: Mapping[str, Gallery],
    quiet: bool = False,
) -> list[ReversalResult]:
    """Try every setting on some of the results, evenly spread, and look for the people in the whole gallery."""
    chosen = [results[index] for index in np.unique(np.linspace(0, len(results) - 1, NUM_SUBJECTS).astype(int))]
    rows = np.array([result.row for result in chosen])
    settings = list(product(("negated", "positive"), SKIPS, GUIDANCE_SCALES))
    raw: dict[tuple[str, float, float], list[list[np.ndarray]]] = {setting: [] for setting in settings}
    for result in track(chosen, f"{method}: reversal attack", disable=quiet):
        for setting, photo in _reversed_photos(pipe, result, settings):
            raw[setting].append([recognizer(photo, result.original.face.landmarks) for recognizer in recognizers])
    attacks = []
    for towards, skip, guidance_scale in settings:
        rank1 = {}
        for recognizer, embeddings in zip(recognizers, zip(*raw[towards, skip, guidance_scale])):
            gallery = galleries[recognizer.name]
            rank1[recognizer.name] = mated_ranks(gallery.probes(np.stack(embeddings)), gallery.embeddings, rows).rate()
        attacks.append(ReversalResult(towards, guidance_scale, skip, rank1))
    return attacks


def _reversed_photos(
    pipe: StableDiffusionNullFacePipeline, result: Result, settings: Sequence[tuple[str, float, float]]
) -> Iterator[tuple[tuple[str, float, float], np.ndarray]]:
    """Each setting and the (H, W, 3) uint8 RGB photo that comes out; one inversion for all settings of one skip."""
    photo, landmarks = result.picture.unread().pixels, result.original.face.landmarks
    crop = FaceCrop.from_landmarks(landmarks, pipe.unet.config.sample_size * pipe.vae_scale_factor)
    face = PIL.Image.fromarray(crop.crop_image(photo))
    embeds = {
        "negated": -embed_face(pipe.face_analyser, photo, landmarks),
        "positive": embed_face(pipe.face_analyser, result.original.picture.unread().pixels, landmarks),
    }
    inversions = {
        skip: pipe.invert(
            [face], num_inference_steps=STEPS, skip=skip, generator=torch.Generator().manual_seed(result.row)
        )
        for skip in SKIPS
    }
    for towards, skip, guidance_scale in settings:
        # The method once more, towards an identity instead of away from it (paper, section 6).
        (reversed_face,) = pipe(
            [face],
            identity_embeds=torch.from_numpy(embeds[towards][None]),
            identity_scale=-1.0,
            guidance_scale=guidance_scale,
            inversion=inversions[skip],
        ).images
        pasted = crop.paste(photo, np.asarray(reversed_face), edge_feather(crop.size))
        yield (towards, skip, guidance_scale), pasted
