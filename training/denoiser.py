"""Part 5 of nullface-tiny: UNet and FaceID adapter, trained together from scratch on cached latents.

    python -m training.latent_cache && python -m training.identities && python -m training.pose_erasure
    python -m training.denoiser --samples 100000
    torchrun --nproc-per-node 2 -m training.denoiser --samples 100000      # data-parallel, the same schedule
    python -m training.denoiser --device cuda --batch-size 384 --fresh 14 --minutes 5      # on a GPU
    python -m training.denoiser --name sharp --from training/runs/denoiser.pt --critic --window-share 0
    python -m training.denoiser --name guided --from training/runs/sharp.pt --guided 8     # the end

The identity embeddings are the recognizer's, of another copy of the photo than the one denoised, so that they tell little
but who it is. What they tell of the pose all the same is erased in the exported adapter, not in training: a model trained
on erased embeddings heeds the identity less, and needs guidance that distorts more.
"""

import argparse
import copy
import logging
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from training.checkpoint import kept
from training.denoiser_export import LATENT_SIZE, attach_fresh_adapter, build_unet, export, load_trained
from training.diffusion import Batch, Diffusion, faster
from training.face_swaps import SwapCache
from training.fresh_samples import FreshPairs, Renewal
from training.identities import load_identities
from training.latent_cache import LatentCache
from training.loop import RUNS, Budget, Every, level_rate, save_checkpoint
from training.muon import MixedOptimizer
from training.pose_erasure import load_projection
from training.samples import Sampler
from training.sampling import Sampling
from training.steps import CriticalStep, GuidedStep, Step


EMA_DECAY = 0.995
FRESH_PAIRS = 65_536  # that are kept at a time: half a gigabyte of latents and as much of swapped ones
# The first part of the budget goes to the middle of the crops, which holds the face and takes about half the time.
# The rest is needed at full size: until then the error there is a quarter higher than it need be.
WINDOW, WINDOW_SHARE = 24, 0.5
ADAPTER_RATE = 2.0  # of the identity projection and the identity's keys and values, relative to the rest
VALIDATION_TIMESTEPS = (100, 200, 300, 400, 500, 600)

logger = logging.getLogger("training.denoiser")


class Validation:
    """The same noise on the same unseen colour portraits each time; what knowing the identity gains is what counts."""

    def __init__(self, runs: Path, identities: str, projection: np.ndarray, count: int = 96) -> None:
        cache = LatentCache.load("validation", runs)
        rows = np.random.default_rng(0).permutation(np.flatnonzero(cache.real_colour))[:count]
        embeddings = load_identities(cache.ids[rows], "validation", identities, runs)[:, :1]
        right = torch.from_numpy(embeddings @ projection)
        latents = torch.from_numpy(cache.latents[rows, 0].astype(np.float32))
        timesteps = torch.tensor(VALIDATION_TIMESTEPS).repeat(len(rows))[: len(rows)]
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        told = {"identity": right, "none": 0.0 * right, "other": right.roll(1, dims=0), "negative": -right}
        self.batches = {name: Batch(latents, latents, identity, timesteps, noise) for name, identity in told.items()}

    @torch.no_grad()
    def __call__(self, diffusion: Diffusion, unet: torch.nn.Module) -> dict[str, float]:
        """Mean error with the right identity, with none, with another person's and with its negative."""
        return {name: diffusion.errors(unet, batch).mean().item() for name, batch in self.batches.items()}


@torch.no_grad()
def update_average(average: torch.nn.Module, model: torch.nn.Module, step: int) -> None:
    """Exponential moving average of the weights, with a short memory at the start."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - decay)


def is_adapter(name: str) -> bool:
    """Whether a parameter of the UNet belongs to what listens to the identity."""
    return "encoder_hid_proj" in name or "_ip." in name


def build_optimizer(unet: torch.nn.Module, rate: float) -> MixedOptimizer:
    """Muon for the matrices within the UNet, AdamW for the rest; what listens to the identity learns faster."""
    matrices, others, adapter = [], [], []
    for name, parameter in unet.named_parameters():
        if is_adapter(name):
            adapter.append(parameter)
        elif parameter.ndim >= 2 and not name.startswith(("conv_in", "conv_out", "time_embedding")):
            matrices.append(parameter)
        else:
            others.append(parameter)
    return MixedOptimizer(matrices, {1.0: others, ADAPTER_RATE: adapter}, rate)


def start(args: argparse.Namespace) -> torch.nn.Module:
    """A fresh UNet with adapter, or a trained one, on the device."""
    torch.manual_seed(args.seed)
    unet = build_unet()
    attach_fresh_adapter(unet)
    if args.start and args.start.is_dir():
        load_trained(unet, args.start)
    elif args.start:
        unet.load_state_dict(kept(args.start))
    return unet.to(args.device).to(memory_format=faster(torch.device(args.device))).requires_grad_(True)


def train(args: argparse.Namespace, rank: int, world_size: int) -> None:
    """Train until so many samples are drawn, from the checkpoint if there is one."""
    device = torch.device(args.device, rank) if args.device == "cuda" else torch.device(args.device)
    cache = LatentCache.load("train", args.runs)
    identities = load_identities(cache.ids, "train", args.identities, args.runs)
    projection = load_projection(args.runs)
    told = (identities @ projection).astype(np.float32)
    if args.fresh:
        sampler = Sampler.empty(FRESH_PAIRS, told, device)
        renew = Renewal(FreshPairs(args.data, args.runs, args.seed + rank), sampler, args.autoencoder, args.fresh)
    else:
        weights = Sampling.load(args.runs).weights
        sampler = Sampler.cached(cache, SwapCache.load(args.runs), weights, told, device)
    diffusion, validation = Diffusion(args.runs, device), Validation(args.runs, args.identities, projection)
    unet = start(args)
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = build_optimizer(unet, args.lr)
    checkpoint, step, samples = args.runs / f"{args.name}.pt", 0, 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        unet.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, samples = state["step"], state["samples"]
    seed = np.random.default_rng([args.seed, step, rank]).integers(2**63)
    generator = torch.Generator(device).manual_seed(int(seed))
    if args.guided:
        learn: Step = GuidedStep(diffusion, unet, optimizer)
    elif args.critic:
        learn = CriticalStep(diffusion, unet, optimizer)
    elif world_size > 1:
        learn = Step(diffusion, unet, optimizer, DistributedDataParallel(unet, gradient_as_bucket_view=True))
    else:
        learn = Step(diffusion, unet, optimizer)
    log, save = Every(30), Every(240)
    budget = Budget(args.minutes) if args.minutes else None
    losses: list[dict[str, Tensor]] = []
    logger.info("%d portraits, %.2f M parameters", len(cache.ids), sum(p.numel() for p in unet.parameters()) / 1e6)

    def save_state() -> None:
        state = {"model": unet.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(checkpoint, state | {"step": step, "samples": samples})
        gains = validation(diffusion, average)
        logger.info("validation  %d samples  %s", samples, "  ".join(f"{k} {v:.4f}" for k, v in gains.items()))

    while (fraction := budget.fraction if budget else samples / args.samples) < 1.0:
        if args.fresh:
            renew()
        is_window = fraction < args.window_share and not learn.is_recorded
        window = WINDOW if is_window else LATENT_SIZE
        if args.guided:
            batch: Batch = sampler.draw_guided(args.batch_size, args.guided, generator)
        else:
            batch = sampler.draw(args.batch_size // world_size, window, generator)
        losses.append(learn(batch, level_rate(fraction, step, args.warmup)))
        update_average(average, unet, step)
        step, samples = step + 1, samples + args.batch_size
        if rank > 0:
            continue
        if log():
            means = "  ".join(
                f"{name} {torch.stack([loss[name] for loss in losses]).mean():.4f}" for name in losses[0]
            )
            logger.info("%5.1f %%  %d samples  %s", 100 * fraction, samples, means)
            losses.clear()
        if save():
            save_state()
    if rank == 0:
        save_state()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the UNet and the FaceID adapter of nullface-tiny.")
    parser.add_argument("task", nargs="?", default="all", choices=["all", "train", "export"])
    parser.add_argument("--output", type=Path, default=Path("nullface_pipeline/tiny"), help="folder of the model set")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    parser.add_argument("--name", default="denoiser", help="of the checkpoint in the folder of runs")
    parser.add_argument(
        "--from", dest="start", type=Path, help="model set, or checkpoint, whose weights to start from"
    )
    parser.add_argument("--identities", default="student", choices=["teacher", "student"], help="whose embeddings")
    parser.add_argument("--samples", type=int, default=700_000, help="samples in all, over all runs")
    parser.add_argument("--minutes", type=float, help="of this run, instead of a number of samples")
    parser.add_argument("--fresh", type=int, default=0, metavar="WORKERS", help="processes that make samples anew")
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="portraits, for --fresh")
    parser.add_argument("--critic", action="store_true", help="a critic asks for sharpness; in one process")
    parser.add_argument(
        "--guided", type=int, default=0, metavar="COUNT", help="portraits a step that change before the critic's eyes"
    )
    parser.add_argument("--autoencoder", type=Path, default=Path("nullface_pipeline/tiny/model/vae"))
    parser.add_argument("--window-share", type=float, default=WINDOW_SHARE, help="of the samples are cut to the face")
    parser.add_argument("--batch-size", type=int, default=16, help="of all processes together")
    parser.add_argument("--warmup", type=int, default=200, help="steps until the learning rate is reached")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="per process")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    if world_size > 1:
        dist.init_process_group("nccl" if args.device == "cuda" else "gloo")
    if (args.critic or args.guided) and world_size > 1:
        parser.error("--critic and --guided take one process.")
    if args.task != "export":
        train(args, rank, world_size)
    if args.task != "train" and rank == 0:
        args.start = args.runs / f"{args.name}.pt"
        projection = torch.from_numpy(load_projection(args.runs))
        export(start(args).requires_grad_(False), projection, args.autoencoder, args.output, args.runs)
    if world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
