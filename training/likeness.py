"""The last part of the denoiser's training: what the teacher and the landmarks say of the picture that guidance makes.

The error of the predicted noise hardly tells who is in the picture at the timesteps where the method works: the noisy
face shows it. So the identity is heard late, and guidance must shout. Here the model is asked for what it is used for:
under the opposite of a person's embedding, and with guidance, the predicted clean picture must look to the teacher like
somebody else, while the landmarks, the tone and everything beside the face stay. The judge of the figures, dlib's
network, has no part in it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from insightface.utils.face_align import estimate_norm
from torch import Tensor
from torch.nn import functional as F

from training.diffusion import Diffusion
from training.landmark_net import EYE_DISTANCE, LandmarkNetwork
from training.latent_cache import CROP_SIZE, LatentCache
from training.portraits import five_points
from training.sampling import Sampling
from training.teacher import TeacherEmbeddings, TeacherNetwork
from training.views import INPUT_SIZE


LARGEST_TIMESTEP = 400
GUIDANCE = (2.0, 8.0)
OPPOSITE_SHARE = 0.75  # of the faces become their opposite, the rest another person of the data
WANTED_SIMILARITY = -0.05  # to the person, from which on a face is somebody else's for good
WEIGHTS = {"person": 1.0, "landmarks": 3.0, "tone": 2.0, "beside": 2.0, "change": 0.1}


@dataclass
class Faces:
    """Latents with what is known about them."""

    latents: Tensor  # (B, 4, 32, 32) float32
    told: Tensor  # (B, 1, 512) float32, the condition
    person: Tensor  # (B, 512) float32 unit norm: the teacher's word on the original
    wanted: Tensor  # (B, 512) float32: on the other person that it is to become, zero for the opposite
    matrices: Tensor  # (B, 2, 3) float32, from the crop's px to the teacher's
    timesteps: Tensor  # (B,) int64
    noise: Tensor  # (B, 4, 32, 32) float32


class FaceSampler:
    """Draws `Faces` from the training cache."""

    def __init__(self, runs: Path, identities: np.ndarray, projection: np.ndarray) -> None:
        cache, sampling = LatentCache.load("train", runs), Sampling.load(runs)
        self.latents, self.points = cache.latents, np.load(runs / "landmarks_train.npy", mmap_mode="r")
        self.told = identities @ projection
        clean = sampling.centre(TeacherEmbeddings.load("train", runs).of(cache.ids)[:, :2]).mean(axis=1)
        self.teacher = clean / np.linalg.norm(clean, axis=1, keepdims=True)
        weights = sampling.weights * cache.real_colour
        self.probabilities = weights / weights.sum(dtype=np.float64)

    def draw(self, count: int, rng: np.random.Generator) -> Faces:
        """`count` colour portraits, each to become its opposite or another of them."""
        rows = rng.choice(len(self.probabilities), size=count, p=self.probabilities)
        others = rng.choice(len(self.probabilities), size=count, p=self.probabilities)
        variants, views = (rng.integers(count_, size=count) for count_ in (self.latents.shape[1], self.told.shape[1]))
        opposite = rng.random((count, 1)) < OPPOSITE_SHARE
        told = np.where(opposite, -self.told[rows, views], self.told[others, views])
        latents = self.latents[rows, variants].astype(np.float32)
        points = self.points[rows, variants]
        return Faces(
            torch.from_numpy(latents),
            torch.from_numpy(told.astype(np.float32)[:, None]),
            torch.from_numpy(self.teacher[rows].astype(np.float32)),
            torch.from_numpy((self.teacher[others] * ~opposite).astype(np.float32)),
            torch.from_numpy(np.stack([estimate_norm(five_points(p), INPUT_SIZE) for p in points]).astype(np.float32)),
            torch.from_numpy(rng.integers(20, LARGEST_TIMESTEP, size=count)),
            torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)),
        )


class Likeness:
    """The loss of guided predictions."""

    def __init__(self, runs: Path, teacher: Path, autoencoder: Path, projection: np.ndarray) -> None:
        self.teacher, self.landmarks = TeacherNetwork(teacher), LandmarkNetwork.load(runs)
        self.autoencoder = AutoencoderTiny.from_pretrained(autoencoder).requires_grad_(False)
        self.autoencoder.to(memory_format=torch.channels_last)
        self.mean = torch.from_numpy(Sampling.load(runs).mean)
        self.projection = torch.from_numpy(projection)
        y, x = torch.meshgrid(*2 * [torch.linspace(-1.0, 1.0, 32)], indexing="ij")
        distance = ((x / 0.6).square() + ((y - 0.1) / 0.75).square()).sqrt()
        self.beside = torch.sigmoid((distance - 1.05) / 0.05)

    def predict(self, diffusion: Diffusion, unet: torch.nn.Module, faces: Faces) -> Tensor:
        """(B, 4, 32, 32): the clean latents, and what guidance would change of them at the faces' timesteps.

        On top of the true latents, because how well they are denoised is the other loss's business.
        """
        alphas = diffusion.scheduler.alphas_cumprod[faces.timesteps].view(-1, 1, 1, 1)
        noisy = diffusion.scheduler.add_noise(faces.latents, faces.noise, faces.timesteps)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            plain = diffusion.predict(unet, noisy, faces.timesteps, torch.zeros_like(faces.told))
        told = diffusion.predict(unet, noisy, faces.timesteps, faces.told)
        guidance = torch.empty(len(noisy), 1, 1, 1).uniform_(*GUIDANCE)
        return faces.latents + ((1.0 - alphas) / alphas).sqrt() * guidance * (plain - told)

    def embed(self, latents: Tensor, matrices: Tensor) -> Tensor:
        """(B, 512) unit-norm word of the teacher on latents, seen slightly askew each time, less what is erased."""
        pixels = self.autoencoder.decode(latents / self.autoencoder.config.scaling_factor).sample
        views = align(pixels, jittered(matrices)).float()
        raw = self.teacher(((views * 127.5 + 0.5) / 128.0).contiguous(memory_format=torch.channels_last))
        return F.normalize((F.normalize(raw.float()) - self.mean) @ self.projection)

    def __call__(self, diffusion: Diffusion, unet: torch.nn.Module, faces: Faces) -> dict[str, Tensor]:
        """Scalars by name, not weighted yet."""
        predicted = self.predict(diffusion, unet, faces)
        with torch.autocast("cpu", torch.bfloat16):
            seen = self.embed(predicted, faces.matrices)
            points = [self.landmarks(latents) for latents in (predicted, faces.latents)]
        person, wanted = (F.normalize(known @ self.projection) for known in (faces.person, faces.wanted))
        other = (wanted * seen).sum(dim=1)
        is_opposite = (faces.wanted.square().sum(dim=1) == 0.0).float()
        away = F.relu((person * seen).sum(dim=1) - WANTED_SIMILARITY)
        towards = F.relu(0.5 - other)
        change = predicted - faces.latents
        return {
            "person": (away + (1.0 - is_opposite) * towards).mean(),
            "landmarks": F.l1_loss(*points) / EYE_DISTANCE,
            "tone": F.avg_pool2d(change, 8).square().mean(),
            "beside": (change.square() * self.beside).mean(),
            "change": change.square().mean(),
        }


def weighted(losses: dict[str, Tensor]) -> Tensor:
    """The sum of the losses by `WEIGHTS`, a scalar."""
    return torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()


def jittered(matrices: Tensor, shift: float = 1.5, scale: float = 0.03) -> Tensor:
    """(B, 2, 3) alignments moved and scaled a little, so that no single pixel decides what the teacher sees."""
    factor = 1.0 + scale * torch.randn(len(matrices), 1, 1)
    centre = torch.full((1, 2, 1), INPUT_SIZE / 2.0)
    linear, offset = matrices[:, :, :2], matrices[:, :, 2:]
    moved = factor * (offset - centre) + centre + shift * torch.randn(len(matrices), 2, 1)
    return torch.cat([factor * linear, moved], dim=2)


def align(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Warp (B, 3, 128, 128) by (B, 2, 3) matrices from its px to the result's, (B, 3, 112, 112)."""
    linear = torch.linalg.inv(matrices[:, :, :2])
    ticks = torch.arange(INPUT_SIZE, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1).view(1, -1, 2)
    source = (grid - matrices[:, None, :, 2]) @ linear.transpose(1, 2)
    source = (2.0 * source + 1.0) / CROP_SIZE - 1.0
    source = source.view(-1, INPUT_SIZE, INPUT_SIZE, 2)
    return F.grid_sample(pixels.float(), source, mode="bilinear", padding_mode="reflection", align_corners=False)
