"""nullface-tiny's training: the maths that can be checked without it, and all of it with next to no time."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

from training import train_all
from training.denoiser_export import attach_fresh_adapter, build_scheduler, build_unet, load_trained, split_model
from training.diffusion import noise_from
from training.face_swaps import SwapCache, swap_face
from training.latent_cache import LatentCache
from training.likeness import align
from training.muon import orthogonalized
from training.pose_erasure import erasing_projection
from training.samples import CHANGED_TIMESTEPS, KINDS, SHARPENED_TIMESTEPS, Sampler, blur, random_timesteps


SHARED = Path(__file__).parents[2] / "shared"


def test_erased_directions_can_no_longer_be_told():
    rng = np.random.default_rng(0)
    concept = rng.standard_normal((500, 3))
    concept -= concept.mean(axis=0)
    embeddings = rng.standard_normal((500, 20)) @ rng.standard_normal((20, 20)) + concept @ rng.standard_normal(
        (3, 20)
    )
    projection = erasing_projection(embeddings, concept)
    erased = embeddings @ projection
    before, after = (np.abs((x - x.mean(axis=0)).T @ concept).max() / len(concept) for x in (embeddings, erased))
    assert before > 0.5 and after < 1e-9
    assert np.linalg.matrix_rank(projection) == 17, "three directions and no more"
    assert np.allclose(projection @ projection, projection)


@pytest.mark.parametrize("shape", [(48, 20), (20, 48), (3, 48, 20)])
def test_orthogonalized_directions_are_all_about_as_long(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before, after = (torch.linalg.svdvals(x.float()) for x in (matrix, orthogonalized(matrix)))
    assert before.max() / before.min() > 3.0
    assert after.min() > 0.6 and after.max() < 1.3


def test_blurring_is_that_of_scipy():
    pictures = torch.randn(2, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    blurred = blur(pictures, torch.tensor([0.6, 1.8]))
    expected = [gaussian_filter(x.numpy(), sigma, axes=(1, 2), truncate=9) for x, sigma in zip(pictures, (0.6, 1.8))]
    assert np.allclose(blurred, np.stack(expected), atol=1e-4)


def test_timesteps_are_drawn_from_their_ranges():
    timesteps = random_timesteps(4000, torch.Generator().manual_seed(0))
    assert timesteps.min() >= 0 and timesteps.max() < 1000
    assert 0.55 < (timesteps < 350).float().mean() < 0.65


def sampler_of(latents, swapped, partners):
    """Each person's embedding is an axis."""
    people = len(latents)
    cache = LatentCache(np.arange(people).astype(str), np.ones(people, bool), latents)
    identities = np.eye(people, 512, dtype=np.float32)[:, None]
    return Sampler.cached(cache, SwapCache(swapped, partners), np.ones(people), identities)


def test_samples_are_told_who_is_to_come_out():
    """Latents say by their value whose picture they are: row, or 100 + row where the row's face was swapped."""
    people, variants = 6, 2
    value = np.arange(people, dtype=np.float16)[:, None, None, None, None]
    latents = np.broadcast_to(value, (people, variants, 4, 32, 32))
    partners = np.tile((np.arange(people)[:, None] + 1) % people, (1, variants))
    sampler = sampler_of(latents, latents + 100, partners)
    batch = sampler.draw(2000, 24, torch.Generator().manual_seed(0))
    assert batch.latents.shape == batch.wanted.shape == batch.noise.shape == (2000, 4, 24, 24)
    start, wanted = batch.latents[:, 0, 0, 0].numpy(), batch.wanted[:, 0, 0, 0].numpy()
    rows, to_swap = wanted.astype(int) % 100, wanted >= 100
    told = batch.identities[:, 0].numpy()
    named = told.any(axis=1)
    assert (told[named].argmax(axis=1) == np.where(to_swap, (rows + 1) % people, rows)[named]).all()
    changed = np.abs(start - wanted) > 0.01
    assert named[changed].all() and 0.8 < named[~changed].mean() < 0.9
    assert np.abs(start - wanted).max() == pytest.approx(100.0), "at first nothing of what is wanted can be seen"
    assert 0.35 < (np.abs(start - wanted)[changed] < 99.0).mean() < 0.65, "later some of it"
    low, high = CHANGED_TIMESTEPS
    assert ((batch.timesteps[changed] >= low) & (batch.timesteps[changed] < high)).all()
    assert changed.mean() == pytest.approx(KINDS["restored"] + KINDS["given"], abs=0.03)
    assert to_swap.mean() == pytest.approx(KINDS["given"] + KINDS["left"], abs=0.03)


def test_some_samples_have_to_be_made_sharp():
    """All pictures are one checkerboard: only what is blurred differs from what is wanted."""
    board = np.indices((32, 32)).sum(axis=0) % 2.0
    latents = np.broadcast_to(board.astype(np.float16), (3, 1, 4, 32, 32))
    partners = np.array([[1], [2], [0]])
    sampler = sampler_of(latents, latents, partners)
    batch = sampler.draw(2000, 32, torch.Generator().manual_seed(0))
    assert np.array_equal(batch.wanted.numpy(), np.broadcast_to(board, batch.wanted.shape))
    contrast = batch.latents.std(dim=(1, 2, 3)) / board.std()
    blurred = contrast < 0.99
    changed = KINDS["restored"] + KINDS["given"]
    assert KINDS["sharpened"] + 0.5 * changed < blurred.float().mean() < KINDS["sharpened"] + 0.7 * changed
    assert (contrast < 0.3).float().mean() > KINDS["sharpened"]
    low, high = SHARPENED_TIMESTEPS[0], CHANGED_TIMESTEPS[1]
    assert ((batch.timesteps[blurred] >= low) & (batch.timesteps[blurred] < high)).all()


def test_the_noise_from_what_is_wanted_leads_to_the_same_place():
    rng = torch.Generator().manual_seed(0)
    wanted, latents, noise = torch.randn(3, 2, 4, 8, 8, generator=rng)
    scheduler, timesteps = build_scheduler(), torch.tensor([60, 500])
    other = noise_from(wanted, latents, noise, scheduler.alphas_cumprod[timesteps])
    reached = [scheduler.add_noise(*pair, timesteps) for pair in ((latents, noise), (wanted, other))]
    assert torch.allclose(*reached, atol=1e-5)


def test_a_swapped_face_lies_within_the_landmarks_and_nowhere_else():
    y, x = np.mgrid[:128, :128]
    stripes, plain = (np.repeat(p[..., None], 3, axis=2).astype(np.uint8) for p in (40 * (x // 8 % 4) + 60, y + 60))
    angle = np.linspace(0.0, np.pi, 17)
    jaw = np.stack([64 - 40 * np.cos(angle), 60 + 50 * np.sin(angle)], axis=1)
    brows = np.stack([np.linspace(34, 94, 10), np.full(10, 50.0)], axis=1)
    inner = np.stack([64 + 20 * np.cos(np.arange(41)), 75 + 15 * np.sin(np.arange(41))], axis=1)
    landmarks = np.concatenate([jaw, brows, inner])
    swapped = swap_face(plain, landmarks, stripes, landmarks + 3.0)
    outside = (np.hypot(x - 64, y - 64) > 62) | (y < 10)
    assert (swapped[outside] == plain[outside]).all()
    rows, columns = slice(70, 90), slice(45, 85)
    alike = np.corrcoef(swapped[rows, columns, 0].ravel(), stripes[73:93, 48:88, 0].ravel())[0, 1]
    assert alike > 0.95, "moved by what the landmarks moved"
    assert abs(swapped[45:100, 40:88].mean() - plain[45:100, 40:88].mean()) < 8.0, "in the portrait's tones"


def test_aligning_moves_a_point_where_the_matrix_says():
    pixels = torch.zeros(1, 3, 128, 128)
    pixels[:, :, 40, 70] = 1.0
    matrix = torch.tensor([[[0.0, -1.0, 100.0], [1.0, 0.0, -20.0]]])
    aligned = align(pixels, matrix)
    assert aligned.shape == (1, 3, 112, 112)
    assert divmod(int(aligned[0, 0].argmax()), 112) == (50, 60)
    assert aligned[0, 0, 50, 60] == pytest.approx(1.0, abs=1e-4)


def test_a_model_set_can_be_trained_on(tmp_path):
    """What is read from an exported set is the network that was exported, LoRA and projection included."""
    torch.manual_seed(0)
    trained, again = build_unet(), build_unet()
    for unet in (trained, again):
        attach_fresh_adapter(unet)
    plain, adapter = split_model(trained, torch.eye(512))
    plain.save_pretrained(tmp_path / "model" / "unet")
    save_file(adapter, tmp_path / "face_adapter.safetensors")
    load_trained(again, tmp_path)
    inputs = torch.randn(1, 4, 32, 32), torch.tensor([200]), torch.randn(1, 77, 96)
    condition = {"image_embeds": [torch.randn(1, 1, 512) / 512**0.5]}
    with torch.no_grad():
        expected, found = (unet(*inputs, added_cond_kwargs=condition).sample for unet in (trained, again))
    assert torch.allclose(expected, found, atol=5e-3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_parts_are_trained_one_after_the_other(tmp_path):
    """`python -m training.train_all` with next to no minutes makes a whole model set and all figures."""
    data = SHARED / "data" / "portraits.parquet"
    if not data.exists():
        pytest.skip("needs the portraits and the networks that teach and measure")
    folder, figures = tmp_path / "set", tmp_path / "figures"
    train_all.train_all(
        argparse.Namespace(
            data=data, models=SHARED / "models", runs=tmp_path / "runs", output=folder, figures=figures, minutes=0.05
        )
    )
    for name in ("model/unet", "model/vae", "face_adapter.safetensors", "face_models/detector.onnx", "face_parser"):
        assert (folder / name).exists(), name
    for name in ("table.json", "trends.png", "faces.jpg"):
        assert (figures / name).exists(), name
