"""Train the UNet and the FaceID adapter of nullface-tiny from scratch on cached latents.

    python -m training.denoiser --samples 100000
    torchrun --nproc-per-node 2 -m training.denoiser --samples 100000      # data-parallel
    python -m training.denoiser --device cuda --batch-size 384 --fresh 14 --minutes 5
    python -m training.denoiser --name sharp --from RUNS/denoiser.pt --critic --window-share 0
    python -m training.denoiser --name guided --from RUNS/sharp.pt --guided 8     # last part

It needs the results of `training.latent_cache`, `training.identities` and `training.pose_erasure`.
Identity embeddings are the recognizer's, of another augmentation of the photo than the denoised
one, so that they carry little but identity. The remaining pose information is erased in the
exported adapter, not in training: a model trained on erased embeddings depends less on the identity
and needs stronger guidance, which distorts more.
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
from torch.nn.parallel import DistributedDataParallel

from training.checkpoint import load_weights
from training.denoiser_export import LATENT_SIZE, attach_fresh_adapter, build_unet, export, load_trained
from training.diffusion import Batch, Diffusion, memory_format
from training.face_swaps import SwapCache
from training.fresh_samples import FreshPairs, Renewal
from training.identities import load_identities
from training.latent_cache import LatentCache
from training.loop import Budget, Every, LossLog, Stateful, level_rate, option_parser, resume, save_checkpoint, set_up
from training.muon import MixedOptimizer
from training.pose_erasure import load_projection
from training.samples import Sampler
from training.sampling import Sampling
from training.steps import AdversarialStep, GuidedStep, Step


EMA_DECAY = 0.995
FRESH_PAIRS = 65_536  # capacity of the sampler with --fresh: half a gigabyte each of latents and of swapped ones
# The first part of the training uses the middle of the crops, which holds the face and takes about
# half the time. The rest uses full crops; without it, the error there stays a quarter higher.
WINDOW, WINDOW_SHARE = 24, 0.5
ADAPTER_RATE = 2.0  # learning rate of the adapter's parameters, relative to the rest
VALIDATION_TIMESTEPS = (100, 200, 300, 400, 500, 600)

logger = logging.getLogger("training.denoiser")


class Validation:
    """Denoising error on fixed validation samples, with several identities for comparison."""

    def __init__(self, runs: Path, identities: str, projection: np.ndarray, count: int = 96) -> None:
        cache = LatentCache.load(runs, "validation")
        rows = np.random.default_rng(0).permutation(np.flatnonzero(cache.real_colour))[:count]
        embeddings = load_identities(cache.ids[rows], "validation", identities, runs)[:, :1]
        right = torch.from_numpy(embeddings @ projection)
        latents = torch.from_numpy(cache.latents[rows, 0].astype(np.float32))
        timesteps = torch.tensor(VALIDATION_TIMESTEPS).repeat(len(rows))[: len(rows)]
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        given = {"identity": right, "none": 0.0 * right, "other": right.roll(1, dims=0), "negative": -right}
        self.batches = {name: Batch(latents, latents, identity, timesteps, noise) for name, identity in given.items()}

    @torch.no_grad()
    def __call__(self, diffusion: Diffusion, unet: torch.nn.Module) -> dict[str, float]:
        """Mean error with the right, the null, another, and the opposite identity."""
        return {name: diffusion.errors(unet, batch).mean().item() for name, batch in self.batches.items()}


@torch.no_grad()
def update_average(average: torch.nn.Module, model: torch.nn.Module, step: int) -> None:
    """Update the exponential moving average of the weights, whose decay is lower at the start."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - decay)


def is_adapter(name: str) -> bool:
    """Whether a parameter of the UNet belongs to the adapter."""
    return "encoder_hid_proj" in name or "_ip." in name


def build_optimizer(unet: torch.nn.Module, rate: float) -> MixedOptimizer:
    """Muon for the UNet's inner matrices, AdamW for the rest; faster for the adapter."""
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
    """UNet with adapter on the device, untrained or with the weights of `--from`."""
    torch.manual_seed(args.seed)
    unet = build_unet()
    attach_fresh_adapter(unet)
    if args.start and args.start.is_dir():
        load_trained(unet, args.start)
    elif args.start:
        unet.load_state_dict(load_weights(args.start))
    layout = memory_format(torch.device(args.device))
    return unet.to(args.device).to(memory_format=layout).requires_grad_(True)


def train(args: argparse.Namespace, rank: int, world_size: int) -> None:
    """Train for `--samples` or `--minutes`; resume from a checkpoint if there is one."""
    device = torch.device(args.device, rank) if args.device == "cuda" else torch.device(args.device)
    cache = LatentCache.load(args.runs)
    identities = load_identities(cache.ids, "train", args.identities, args.runs)
    projection = load_projection(args.runs)
    embeds = (identities @ projection).astype(np.float32)
    if args.fresh:
        sampler = Sampler.empty(FRESH_PAIRS, embeds, device)
        renew = Renewal(FreshPairs(args.data, args.runs, args.seed + rank), sampler, args.autoencoder, args.fresh)
    else:
        weights = Sampling.load(args.runs).weights
        sampler = Sampler.cached(cache, SwapCache.load(args.runs), weights, embeds, device)
    diffusion, validation = Diffusion(args.runs, device), Validation(args.runs, args.identities, projection)
    unet = start(args)
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = build_optimizer(unet, args.lr)
    parts: dict[str, Stateful] = {"model": unet, "average": average, "optimizer": optimizer}
    checkpoint = args.runs / f"{args.name}.pt"
    progress = resume(checkpoint, parts, device)
    step, samples = progress.get("step", 0), progress.get("samples", 0)
    seed = np.random.default_rng([args.seed, step, rank]).integers(2**63)
    generator = torch.Generator(device).manual_seed(int(seed))
    if args.guided:
        learn: Step = GuidedStep(diffusion, unet, optimizer)
    elif args.critic:
        learn = AdversarialStep(diffusion, unet, optimizer)
    elif world_size > 1:
        learn = Step(diffusion, unet, optimizer, DistributedDataParallel(unet, gradient_as_bucket_view=True))
    else:
        learn = Step(diffusion, unet, optimizer)
    log, save = LossLog(logger), Every(240)
    budget = Budget(args.minutes) if args.minutes else None
    logger.info("%d portraits, %.2f M parameters", len(cache.ids), sum(p.numel() for p in unet.parameters()) / 1e6)

    def save_state() -> None:
        save_checkpoint(checkpoint, parts, step=step, samples=samples)
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
        losses = learn(batch, level_rate(fraction, step, args.warmup))
        update_average(average, unet, step)
        step, samples = step + 1, samples + args.batch_size
        if rank > 0:
            continue
        log(fraction, f"{samples} samples", **losses)
        if save():
            save_state()
    if rank == 0:
        save_state()


def main() -> None:
    shared = ("data", "runs", "autoencoder", "device", "threads", "seed")
    parser = option_parser(__doc__, *shared, output=Path("nullface_pipeline/tiny"), batch_size=16, lr=1e-3)
    parser.add_argument("task", nargs="?", default="all", choices=["all", "train", "export"])
    parser.add_argument("--name", default="denoiser", help="name of the checkpoint in the folder of runs")
    parser.add_argument("--from", dest="start", type=Path, help="model set or checkpoint with initial weights")
    parser.add_argument("--identities", default="student", choices=["teacher", "student"], help="source of embeddings")
    parser.add_argument("--samples", type=int, default=700_000, help="samples of all runs; ignored with --minutes")
    parser.add_argument("--minutes", type=float, help="wall-clock budget of this run, instead of --samples")
    parser.add_argument("--fresh", type=int, default=0, metavar="WORKERS", help="processes that make new samples")
    parser.add_argument("--critic", action="store_true", help="add the adversarial loss; one process only")
    parser.add_argument("--guided", type=int, default=0, metavar="COUNT", help="portraits per step for guided steps")
    parser.add_argument("--window-share", type=float, default=WINDOW_SHARE, help="share of samples cut to the face")
    parser.add_argument("--warmup", type=int, default=200, help="steps until the peak learning rate")
    args = parser.parse_args()
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    set_up(args.threads)
    if rank > 0:
        logging.getLogger().setLevel(logging.WARNING)
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    if world_size > 1:
        dist.init_process_group("nccl" if args.device == "cuda" else "gloo")
    if (args.critic or args.guided) and world_size > 1:
        parser.error("--critic and --guided run in one process only. Start without torchrun.")
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
