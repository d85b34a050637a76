"""Time of one face at the paper's settings, against the published code's UNet evaluations.

The published code evaluates the UNet sample by sample: 100 times to invert, and twice in each of 30
denoising steps. Both run in turn in one process with nullface-tiny; only the ratio matters.

    python benchmarks/unet_work.py [--device cuda] [--repeats 5]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from nullface_pipeline import StableDiffusionNullFacePipeline
from nullface_pipeline.ddpm_inversion import NoiseSchedule
from nullface_pipeline.tiny_model import load_nullface_tiny
from nullface_pipeline.unet_denoiser import UNetDenoiser


STEPS, SKIPPED = 100, 70


@torch.no_grad()
def published_order(pipe: StableDiffusionNullFacePipeline, image: torch.Tensor, embeds: torch.Tensor) -> None:
    """Run only the VAE and the UNet evaluations, in favour of the published code."""
    device = embeds.device
    timesteps = NoiseSchedule.from_scheduler_config(pipe.scheduler.config, STEPS).to(device).timesteps
    latents = pipe.encode_image(pipe.prepare_image(image))
    denoiser = UNetDenoiser(pipe.unet, pipe.prompt_conditions("", *image.shape[-2:]))
    null_embeds = torch.zeros_like(embeds)
    for t in timesteps:
        denoiser(latents, t, null_embeds)
    for t in timesteps[SKIPPED:]:
        denoiser(latents, t, null_embeds)
        denoiser(latents, t, embeds)
    pipe.decode_latents(latents)


def seconds(run: Callable[[], object], device: str) -> float:
    """Wall-clock seconds of a call."""
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    pipe = load_nullface_tiny(args.device)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    image = torch.rand(1, 3, side, side, generator=generator)
    embeds = torch.nn.functional.normalize(torch.randn(1, 512, generator=generator)).to(args.device)
    ways = {
        "published order": lambda: published_order(pipe, image, embeds),
        "this pipeline": lambda: pipe(image, identity_embeds=embeds, num_inference_steps=STEPS, skip=SKIPPED / STEPS),
    }
    for run in ways.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, run in ways.items():
            times[name].append(seconds(run, args.device))
    for name, values in times.items():
        print(f"{name}: median {statistics.median(values):.2f} s of {args.repeats}")
    ratios = [ours / theirs for theirs, ours in zip(*times.values())]
    print(f"ratio: median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
