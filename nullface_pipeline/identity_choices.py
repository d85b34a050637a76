"""The three ways to choose a new identity: one class each, behind one method.

"random" rotates the embedding towards a random identity, "opposite" negates it as in the paper, and
"consistent" gives a person of an album the same new face in every photo.
"""

from dataclasses import replace
from itertools import repeat
from typing import Protocol

import numpy as np
import PIL.Image
import torch

from .ddpm_inversion import DDPMInversion, few_step_timesteps
from .face_masks import mask_picture
from .face_target import FaceTarget
from .identity_prior import AngleSearch, load_identity_prior, rotate_identity
from .protocols import NullFacePipeline, Settings


# Number of angles in one attempt.
ANGLES = 3

INVERSION_SETTINGS = frozenset(
    {
        "num_inference_steps",
        "skip",
        "timesteps",
        "solver_order",
        "eta",
        "ip_adapter_scale",
        "inversion_batch_size",
    }
)


class IdentityChoice(Protocol):
    """A way to choose new identities."""

    def new_faces(self, pipe: NullFacePipeline, targets: list[FaceTarget], settings: Settings) -> list[np.ndarray]:
        """One attempt at a batch of faces.

        Args:
            pipe (`StableDiffusionNullFacePipeline`): with adapter and face models.
            settings: arguments of the pipeline, see `PhotoOptions.settings`.

        Returns:
            `list[np.ndarray]`: a new face for each target, (size, size, 3) uint8 RGB.
        """


class OppositeIdentity:
    """The paper's identity: the negated embedding (section 3.3), with the photo's noise maps."""

    def new_faces(self, pipe: NullFacePipeline, targets: list[FaceTarget], settings: Settings) -> list[np.ndarray]:
        return edit(pipe, targets, generator=noise_generators(targets) or None, **pipeline_settings(settings))


class ConsistentIdentity:
    """The negated embedding with noise drawn for the person: the same new face in every photo."""

    def new_faces(self, pipe: NullFacePipeline, targets: list[FaceTarget], settings: Settings) -> list[np.ndarray]:
        inversion, settings = noise_photos(pipe, targets, settings, noise_generators(targets))
        return edit(pipe, targets, inversion=inversion, **settings)


class RandomIdentity:
    """A random identity, at the angle where the result is as similar as a stranger."""

    def new_faces(self, pipe: NullFacePipeline, targets: list[FaceTarget], settings: Settings) -> list[np.ndarray]:
        generators = noise_generators(targets)
        min_angle = settings.get("min_angle", 0.0)
        settings = {name: value for name, value in settings.items() if name != "min_angle"}
        inversion, settings = noise_photos(pipe, targets, settings, generators)
        embeds = torch.from_numpy(np.stack([target.face.embedding for target in targets]))
        prior = load_identity_prior(pipe.face_analyser)
        searches = [
            AngleSearch(person, prior, each, min_angle) for person, each in zip(embeds, generators or repeat(None))
        ]
        random_identities = torch.stack([search.random_identity for search in searches])
        # The pipeline negates `identity_embeds`.
        settings["identity_scale"] = -settings.get("identity_scale", 1.0)
        results: list[list[np.ndarray]] = [[] for _ in targets]
        for _ in range(ANGLES):
            pending = [index for index, search in enumerate(searches) if not search.is_done]
            if not pending:
                break
            angles = [searches[index].angle for index in pending]
            identities = rotate_identity(embeds[pending], random_identities[pending], angles)
            rotated = [replace(targets[index], identity=each.numpy()) for index, each in zip(pending, identities)]
            edited = edit(pipe, rotated, inversion=inversion.select(pending), **settings)
            for index, angle, result in zip(pending, angles, edited):
                searches[index].add(angle, torch.from_numpy(targets[index].embed(pipe.face_analyser, result)))
                results[index].append(result)
        return [attempts[search.best] for attempts, search in zip(results, searches)]


# By the name of `PhotoOptions.identity`.
IDENTITY_CHOICES: dict[str, IdentityChoice] = {
    "random": RandomIdentity(),
    "opposite": OppositeIdentity(),
    "consistent": ConsistentIdentity(),
}


def edit(pipe: NullFacePipeline, targets: list[FaceTarget], **arguments: object) -> list[np.ndarray]:
    """Run the pipeline on targets with their masks; returns (size, size, 3) uint8 RGB each."""
    images = pipe(
        [PIL.Image.fromarray(target.aligned) for target in targets],
        identity_embeds=torch.from_numpy(np.stack([target.identity for target in targets])),
        mask_image=[mask_picture(target.mask) for target in targets],
        **arguments,
    ).images
    return [np.asarray(image) for image in images]


def noise_photos(
    pipe: NullFacePipeline, targets: list[FaceTarget], settings: Settings, generators: list[torch.Generator]
) -> tuple[DDPMInversion, Settings]:
    """Noise the targets for new faces inside their masks; also returns the settings left over."""
    settings = pipeline_settings(settings)
    of_inversion = {name: value for name, value in settings.items() if name in INVERSION_SETTINGS}
    of_edit = {name: value for name, value in settings.items() if name not in INVERSION_SETTINGS}
    images = [PIL.Image.fromarray(target.aligned) for target in targets]
    return pipe.invert(images, generator=generators or None, fresh_noise=True, **of_inversion), of_edit


def noise_generators(targets: list[FaceTarget]) -> list[torch.Generator]:
    """One generator a face, so that results do not depend on other faces; none without seeds."""
    if all(target.seed is None for target in targets):
        return []
    generators = [torch.Generator() for _ in targets]
    for target, generator in zip(targets, generators):
        if target.seed is None:
            generator.seed()
        else:
            generator.manual_seed((target.seed + 1000 * target.attempts) % 2**63)
    return generators


def pipeline_settings(settings: Settings) -> Settings:
    """Settings as arguments of `__call__`: few steps become timesteps, which replace `skip`."""
    if "few_steps" not in settings:
        return settings
    others = {name: value for name, value in settings.items() if name not in ("few_steps", "skip")}
    return {**others, "timesteps": few_step_timesteps(settings["few_steps"], settings["skip"])}
