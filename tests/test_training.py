"""nullface-tiny's training: the maths that can be checked without it, and all of it with next to no
time.
"""

import argparse
import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter
from torch.utils.data import IterableDataset
from transformers import CLIPTextModel

from nullface_pipeline.tiny_model import TINY_FOLDER
from training import autoencoder, autoencoder_256, fresh_samples, steps, train_all
from training.critic import Critic, adversarial_loss, critic_loss
from training.denoiser import build_optimizer
from training.denoiser_export import (
    add_transformers_4_files,
    attach_fresh_adapter,
    build_scheduler,
    build_text_encoder,
    build_unet,
    load_trained,
    split_model,
)
from training.diffusion import Diffusion, GuidedBatch, target_noise
from training.face_swaps import SwapCache, swap_face
from training.latent_cache import LatentCache
from training.muon import orthogonalized
from training.pose_erasure import erasing_projection
from training.samples import (
    ANY_GUIDANCE,
    CHANGED_TIMESTEPS,
    DEFAULT_FIRST,
    DEFAULT_SHARE,
    KINDS,
    SHARPENED_TIMESTEPS,
    Sampler,
    blur,
    random_timesteps,
)
from training.steps import AdversarialStep, GuidedStep, Step


SHARED = Path(__file__).parents[2] / "shared"


def test_erased_directions_are_no_longer_predictable():
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


def sampler_of(latents: Any, swapped: Any, partners: Any) -> Sampler:
    """Each person's embedding is an axis."""
    people = len(latents)
    cache = LatentCache(np.arange(people).astype(str), np.ones(people, bool), latents)
    identities = np.eye(people, 512, dtype=np.float32)[:, None]
    return Sampler.cached(cache, SwapCache(swapped, partners), np.ones(people), identities)


def test_samples_have_the_identity_of_their_target():
    """Latents say by their value whose picture they are: row, or 100 + row where the row's face was
    swapped.
    """
    people, variants = 6, 2
    value = np.arange(people, dtype=np.float16)[:, None, None, None, None]
    latents = np.broadcast_to(value, (people, variants, 4, 32, 32))
    partners = np.tile((np.arange(people)[:, None] + 1) % people, (1, variants))
    sampler = sampler_of(latents, latents + 100, partners)
    batch = sampler.draw(2000, 24, torch.Generator().manual_seed(0))
    assert batch.latents.shape == batch.targets.shape == batch.noise.shape == (2000, 4, 24, 24)
    start, wanted = batch.latents[:, 0, 0, 0].numpy(), batch.targets[:, 0, 0, 0].numpy()
    rows, to_swap = wanted.astype(int) % 100, wanted >= 100
    embeds = batch.identities[:, 0].numpy()
    named = embeds.any(axis=1)
    assert (embeds[named].argmax(axis=1) == np.where(to_swap, (rows + 1) % people, rows)[named]).all()
    changed = np.abs(start - wanted) > 0.01
    assert named[changed].all() and 0.8 < named[~changed].mean() < 0.9
    assert np.abs(start - wanted).max() == pytest.approx(100.0), "at first nothing of what is wanted can be seen"
    assert 0.35 < (np.abs(start - wanted)[changed] < 99.0).mean() < 0.65, "later some of it"
    low, high = CHANGED_TIMESTEPS
    assert ((batch.timesteps[changed] >= low) & (batch.timesteps[changed] < high)).all()
    assert changed.mean() == pytest.approx(KINDS["restored"] + KINDS["given"], abs=0.03)
    assert to_swap.mean() == pytest.approx(KINDS["given"] + KINDS["left"], abs=0.03)


def test_guided_samples_have_the_opposite_identity_rotated_towards_another():
    people = 6
    value = np.arange(people, dtype=np.float16)[:, None, None, None, None]
    latents = np.broadcast_to(value, (people, 1, 4, 32, 32))
    sampler = sampler_of(latents, latents + 100, (np.arange(people)[:, None] + 1) % people)
    batch = sampler.draw_guided(4, 2000, torch.Generator().manual_seed(0))
    assert batch.latents.shape == (4, 4, 32, 32) and batch.guided_identities.shape == (2000, 1, 512)
    rows = batch.portraits[:, 0, 0, 0].long()
    own = batch.guided_identities[:, 0].gather(1, rows[:, None])[:, 0]
    others = batch.guided_identities[:, 0, :people].scatter(1, rows[:, None], -9.0).amax(dim=1)
    turned = others > 0.3  # the noise of identities is smaller
    assert 0.6 < turned.float().mean() < 0.8, "one of six is turned to the same person, and small angles hardly turn"
    assert (own[turned] < 0.3).all() and own.min() < -0.9
    low, high = DEFAULT_FIRST
    assert ((batch.first_timesteps >= low) & (batch.first_timesteps < high)).float().mean() > DEFAULT_SHARE
    assert batch.guidance_scales.min() >= ANY_GUIDANCE[0] and 9.0 < batch.guidance_scales.max() <= ANY_GUIDANCE[1]


def test_some_samples_have_to_be_made_sharp():
    """All pictures are one checkerboard: only what is blurred differs from what is wanted."""
    board = np.indices((32, 32)).sum(axis=0) % 2.0
    latents = np.broadcast_to(board.astype(np.float16), (3, 1, 4, 32, 32))
    partners = np.array([[1], [2], [0]])
    sampler = sampler_of(latents, latents, partners)
    batch = sampler.draw(2000, 32, torch.Generator().manual_seed(0))
    assert np.array_equal(batch.targets.numpy(), np.broadcast_to(board, batch.targets.shape))
    contrast = batch.latents.std(dim=(1, 2, 3)) / board.std()
    blurred = contrast < 0.99
    changed = KINDS["restored"] + KINDS["given"]
    assert KINDS["sharpened"] + 0.5 * changed < blurred.float().mean() < KINDS["sharpened"] + 0.7 * changed
    assert (contrast < 0.3).float().mean() > KINDS["sharpened"]
    low, high = SHARPENED_TIMESTEPS[0], CHANGED_TIMESTEPS[1]
    assert ((batch.timesteps[blurred] >= low) & (batch.timesteps[blurred] < high)).all()


def test_only_pairs_that_were_put_in_are_drawn():
    identities = np.eye(9, 512, dtype=np.float32)[:, None]
    sampler = Sampler.empty(8, identities, "cpu")
    latents = torch.full((2, 4, 32, 32), 5.0)
    sampler.put(torch.tensor([3, 6]), latents, latents + 1.0, torch.tensor([7, 8]), torch.tensor([1, 2]))
    batch = sampler.draw(200, 32, torch.Generator().manual_seed(0))
    assert set(batch.targets[:, 0, 0, 0].tolist()) == {5.0, 6.0}
    assert set(batch.identities[:, 0].argmax(dim=1).tolist()) <= {0, 1, 2, 7, 8}


class StripedPairs(IterableDataset):
    """Pairs of a black and a white crop, without end; whose they are counts up."""

    def __iter__(self) -> Iterator[Any]:
        for row in itertools.count():
            crop = np.zeros((128, 128, 3), np.uint8)
            yield crop, crop + 255, row, row + 1


def test_fresh_pairs_fill_a_sampler_and_replace_the_oldest(monkeypatch):
    monkeypatch.setattr(fresh_samples, "BATCH_SIZE", 4)
    sampler = Sampler.empty(6, np.zeros((1, 1, 512), np.float32), "cpu")
    renewal = fresh_samples.Renewal(StripedPairs(), sampler, TINY_FOLDER / "model" / "vae", workers=0)
    assert renewal.made == 8, "at least as many as there are places"
    assert sampler.rows.tolist() == [6, 7, 2, 3, 4, 5], "the first two were replaced"
    assert (sampler.partners == sampler.rows + 1).all() and (sampler.weights == 1.0).all()
    black, white = sampler.latents.float().mean(dim=0), sampler.swapped.float().mean(dim=0)
    assert (black - white).abs().mean() > 0.5
    while renewal.made == 8:
        renewal()
    assert sampler.rows.max() > 7


def small_denoiser() -> Any:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=96,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    attach_fresh_adapter(unet)
    return unet.requires_grad_(True)


def random_batch(count: int, generator: torch.Generator) -> GuidedBatch:
    """What every kind of step can learn from."""
    latents, wanted, noise, portraits = torch.randn(4, count, 4, 32, 32, generator=generator)
    timesteps = torch.randint(20, 440, (count,), generator=generator)
    identities, conditions = torch.randn(2, count, 1, 512, generator=generator) / 512**0.5
    guidance = torch.full((count,), 3.5)
    return GuidedBatch(latents, wanted, identities, timesteps, noise, portraits, conditions, timesteps, guidance)


@pytest.mark.slow
def test_the_critic_has_no_say_before_it_has_learnt(tmp_path, monkeypatch):
    """A step in which it has none is the step without it; later it changes the network, and the
    critic learns on.
    """
    diffusion, batch = Diffusion(tmp_path, torch.device("cpu")), random_batch(2, torch.Generator().manual_seed(0))

    def stepped(make_step, alone):
        monkeypatch.setattr(steps, "CRITIC_WARMUP", alone)
        unet = small_denoiser()
        step = make_step(diffusion, unet, build_optimizer(unet, 1e-3))
        losses = step(batch, 1.0)
        return step, losses, torch.cat([parameter.detach().flatten() for parameter in unet.parameters()])

    _, plain_loss, plain = stepped(Step, (0, 1))
    _, alone_loss, alone = stepped(AdversarialStep, (1, 1))
    step, _, with_critic = stepped(AdversarialStep, (-5, 1))
    assert alone_loss["loss"] == plain_loss["loss"] and torch.allclose(alone, plain, atol=1e-6)
    assert (with_critic - plain).abs().max() > 1e-4
    before = step(batch, 1.0)["critic"]
    for _ in range(3):
        after = step(batch, 1.0)["critic"]
    assert after < before


@pytest.mark.slow
def test_guided_predictions_stay_what_they_were_but_for_the_critic(tmp_path, monkeypatch):
    diffusion, batch = Diffusion(tmp_path, torch.device("cpu")), random_batch(2, torch.Generator().manual_seed(0))

    def changes(alone):
        """Differences of three steps' predictions from those before the first step."""
        monkeypatch.setattr(steps, "CRITIC_WARMUP", alone)
        unet = small_denoiser()
        before = copy.deepcopy(unet.state_dict())
        step = GuidedStep(diffusion, unet, build_optimizer(unet, 1e-3))
        found = [step(batch, 1.0)["changed"].item() for _ in range(3)]
        assert all(torch.equal(weight, before[name]) for name, weight in step.initial.state_dict().items())
        return found, unet

    alone, unet = changes((9, 1))
    with_critic, moved = changes((-5, 1))
    assert alone[0] == with_critic[0] == 0.0
    assert 0.0 < alone[2] and alone[1] != with_critic[1]
    weights = (torch.cat([weight.flatten() for weight in network.parameters()]) for network in (unet, moved))
    assert (next(weights) - next(weights)).abs().max() > 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make_step", [Step, AdversarialStep, GuidedStep])
def test_a_recorded_step_learns_what_one_on_the_cpu_learns(make_step, tmp_path):
    """To within bfloat16, and without the three steps in earnest before the recording, which go
    over the first batch.
    """
    batches = [random_batch(8, torch.Generator().manual_seed(number)) for number in range(12)]

    def losses(device):
        diffusion, unet = Diffusion(tmp_path, torch.device(device)), small_denoiser().to(device)
        step = make_step(diffusion, unet, build_optimizer(unet, 1e-4))
        moved = [GuidedBatch(**{name: x.to(device) for name, x in vars(batch).items()}) for batch in batches]
        return [step(batch, 1.0)["loss"].item() for batch in moved]

    assert losses("cuda") == pytest.approx(losses("cpu"), rel=0.05)


@pytest.mark.slow
def test_a_critic_learns_to_tell_blurred_from_sharp():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    critic, everything = Critic(), torch.ones(8)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-3, betas=(0.0, 0.99))
    for _ in range(25):
        sharp = torch.randn(8, 4, 16, 16, generator=generator)
        blurred = blur(sharp, torch.full((8,), 0.8))
        critic_loss(critic, blurred, sharp, everything).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert adversarial_loss(critic, sharp, everything) < 0.5 < 0.9 < adversarial_loss(critic, blurred, everything)
    unweighted = adversarial_loss(critic, blurred, torch.zeros(8))
    assert unweighted == 0.0


def test_the_noise_from_what_is_wanted_leads_to_the_same_place():
    rng = torch.Generator().manual_seed(0)
    wanted, latents, noise = torch.randn(3, 2, 4, 8, 8, generator=rng)
    scheduler, timesteps = build_scheduler(), torch.tensor([60, 500])
    other = target_noise(wanted, latents, noise, scheduler.alphas_cumprod[timesteps])
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


def test_exported_text_encoder_is_readable_by_transformers_4(tmp_path):
    text_encoder, tokenizer = build_text_encoder(tmp_path / "tokenizer")
    for name, part in (("text_encoder", text_encoder), ("tokenizer", tokenizer)):
        part.save_pretrained(tmp_path / "model" / name)
    add_transformers_4_files(tmp_path / "model", tmp_path / "tokenizer")
    for model in (tmp_path / "model", TINY_FOLDER / "model"):
        assert all(name.startswith("text_model.") for name in load_file(model / "text_encoder" / "model.safetensors"))
        for file in ("vocab.json", "merges.txt"):
            assert (model / "tokenizer" / file).read_text() == (tmp_path / "tokenizer" / file).read_text()
    reloaded = CLIPTextModel.from_pretrained(tmp_path / "model" / "text_encoder")
    assert all(map(torch.equal, reloaded.state_dict().values(), text_encoder.state_dict().values()))


def test_a_model_set_can_be_trained_on(tmp_path):
    """What is read from an exported set is the network that was exported, LoRA and projection
    included.
    """
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


def test_the_256_px_autoencoder_begins_as_the_128_px_one_enlarged():
    torch.manual_seed(0)
    small, large = autoencoder.build_autoencoder(), autoencoder_256.build_autoencoder()
    autoencoder_256.initialize_from(large, small)
    latents = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        expected = torch.nn.functional.interpolate(small.decoder(latents), scale_factor=2, mode="bilinear")
        found = large.decoder(latents)
    assert found.shape == (1, 3, 256, 256)
    assert (found - expected).abs().mean() < 0.5 * expected.std()


def test_the_256_px_autoencoder_learns_faces_of_one_colour():
    """Some steps of each kind: the encoder comes closer to the 128 px one, the decoder to the
    picture.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    crops = np.full((4, 256, 256, 3), (200, 120, 90), np.uint8)
    windows = autoencoder_256.Windows(crops, np.empty((0, 128, 128, 3), np.uint8))
    trainer = autoencoder_256.Trainer(autoencoder.build_autoencoder(), 1e-4, torch.device("cpu"))
    drawn, corners, is_large = windows.draw(2, rng)
    images, places = autoencoder.to_tensor(drawn, "cpu"), torch.from_numpy(corners)
    encoder = [trainer.encoder_step(images, 1e-4) for _ in range(5)]
    assert encoder[-1] < encoder[0]
    step = images, places, torch.from_numpy(is_large), 1e-4
    decoder = [trainer.decoder_step(*step, train_critic=False, adversarial=False) for _ in range(5)]
    assert decoder[-1] < decoder[0]
    before = [weight.clone() for weight in trainer.critic.parameters()]
    results = rng.standard_normal((3, 4, 32, 32)).astype(np.float16)
    latents, corners = map(torch.from_numpy, autoencoder_256.result_windows(results, 2, rng))
    trainer.result_step(latents, corners, images, places, 1e-4)
    assert all((weight != old).any() for weight, old in zip(trainer.critic.parameters(), before))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_parts_are_trained_one_after_the_other(tmp_path):
    """`python -m training.train_all` with next to no minutes makes a whole model set and all
    figures.
    """
    data = SHARED / "data" / "portraits.parquet"
    if not data.exists():
        pytest.skip("needs the portraits and the networks that teach and measure")
    folder, figures = tmp_path / "set", tmp_path / "figures"
    train_all.train_all(
        argparse.Namespace(
            data=data,
            large_data=data.with_name("portraits_large.parquet"),
            models=SHARED / "models",
            runs=tmp_path / "runs",
            output=folder,
            figures=figures,
            minutes=0.05,
        )
    )
    for name in ("model/unet", "model/vae", "face_adapter.safetensors", "face_models/detector.onnx", "face_parser"):
        assert (folder / name).exists(), name
    for name in ("table.json", "trends.png", "faces.jpg"):
        assert (figures / name).exists(), name
