"""Reversal attack: the pipeline is run on anonymized results (the paper's figure 10)."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import PIL.Image
import torch
from rich.progress import track

from nullface_pipeline.evaluation.galleries import PhotoGallery
from nullface_pipeline.evaluation.rates import mated_ranks
from nullface_pipeline.evaluation.recognizers import Recognizer
from nullface_pipeline.evaluation.results import SAME_PHOTO, Result, ReversalResult
from nullface_pipeline.face_crops import FaceCrop, edge_feather
from nullface_pipeline.face_identity import embed_face
from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline


GUIDANCE_SCALES = (2.5, 5.0, 10.0)
SKIPS = (0.5, 0.7)
STEPS = 50
# Largest number of results to attack; each takes seconds per setting.
NUM_SUBJECTS = 48

# Direction, skip and guidance scale.
Setting = tuple[str, float, float]


def reverse_results(
    pipe: StableDiffusionNullFacePipeline,
    method: str,
    results: Sequence[Result],
    recognizers: Sequence[Recognizer],
    galleries: Mapping[str, PhotoGallery],
    quiet: bool = False,
) -> list[ReversalResult]:
    """Run every setting on up to `NUM_SUBJECTS` results and search each whole gallery."""
    rows = np.array([result.row for result in results])
    searched = np.flatnonzero(galleries[SAME_PHOTO].mates(rows) >= 0)
    spread = np.unique(np.linspace(0, len(searched) - 1, NUM_SUBJECTS).astype(int))
    chosen = [results[number] for number in searched[spread]]
    settings = list(product(("negated", "positive"), SKIPS, GUIDANCE_SCALES))
    raw: dict[Setting, list[list[np.ndarray]]] = {setting: [] for setting in settings}
    for result in track(chosen, f"{method}: reversal attack", disable=quiet):
        for setting, photo in _reversed_photos(pipe, result, settings):
            raw[setting].append([recognizer(photo, result.original.face.landmarks) for recognizer in recognizers])
    attacks = []
    for (name, gallery), setting in product(galleries.items(), settings):
        mates = gallery.mates(np.array([result.row for result in chosen]))
        if not (mates >= 0).any():
            continue
        rank1 = {}
        for recognizer, embeddings in zip(recognizers, zip(*raw[setting])):
            photos = gallery.embedded[recognizer.name]
            probes = photos.probes(np.stack(embeddings)[mates >= 0])
            rank1[recognizer.name] = mated_ranks(probes, photos.embeddings, mates[mates >= 0]).rate()
        towards, skip, guidance_scale = setting
        attacks.append(ReversalResult(name, towards, guidance_scale, skip, rank1))
    return attacks


def _reversed_photos(
    pipe: StableDiffusionNullFacePipeline, result: Result, settings: Sequence[Setting]
) -> Iterator[tuple[Setting, np.ndarray]]:
    """Yield each setting and its (H, W, 3) uint8 RGB photo; one inversion per skip."""
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
        # The method again, but towards an identity instead of away from it (paper, section 6).
        (reversed_face,) = pipe(
            [face],
            identity_embeds=torch.from_numpy(embeds[towards][None]),
            identity_scale=-1.0,
            guidance_scale=guidance_scale,
            inversion=inversions[skip],
        ).images
        pasted = crop.paste(photo, np.asarray(reversed_face), edge_feather(crop.size))
        yield (towards, skip, guidance_scale), pasted
