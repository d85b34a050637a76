"""Compare the authors' published code with this pipeline on one face and the same weights.

The weights are random, with the sizes of Stable Diffusion 1.5 and of the published FaceID adapter:
time and memory depend on sizes only. The published code is imported from a clone of
https://github.com/hanweikung/nullface, which has its own licence. Nothing else uses it.

    git clone https://github.com/hanweikung/nullface ../published
    python -m benchmarks.against_published --published ../published

The published 100 steps take long on a CPU. `--num-inference-steps 20` runs both with fewer steps
and the same share skipped. The last columns extrapolate to the paper's 100 steps by the time of one
UNet evaluation.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline

from benchmarks.cost import Cost, measure
from benchmarks.full_size import make_full_size_pipeline
from nullface_pipeline.ddpm_inversion import FAST_TIMESTEPS, PREVIEW_TIMESTEPS
from nullface_pipeline.unet_denoiser import UNetDenoiser
from tests.tiny_parts import make_embeds, make_images


PAPER_STEPS, SKIP, GUIDANCE = 100, 0.7, 10.0
MASK_START = 0.8  # share of the steps from which on the paper applies its mask


@dataclass(frozen=True)
class Method:
    """A method to anonymize a face.

    Attributes:
        name (`str`): name in the table.
        run (`Callable`): runs it once and returns the pixels in [0, 1].
        dtype (`torch.dtype`): dtype of the UNet and the text encoder.
        vae_dtype (`torch.dtype`): dtype of the VAE.
        paper_evaluations (`int`): UNet evaluations at the paper's 100 steps.
    """

    name: str
    run: Callable[[], torch.Tensor]
    dtype: torch.dtype
    vae_dtype: torch.dtype
    paper_evaluations: int


class Published:
    """Published functions, called as in its `anonymize_face`, with our pipeline's components."""

    def __init__(self, folder: Path, pipe: Any):
        sys.path.insert(0, str(folder))
        functions = importlib.import_module("ddm_inversion.inversion_utils")
        self.invert, self.denoise = functions.inversion_forward_process, functions.inversion_reverse_process
        components = {name: pipe.components[name] for name in ("vae", "text_encoder", "tokenizer", "unet")}
        self.model = StableDiffusionInpaintPipeline(
            **components,
            scheduler=DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        # The published code reads them as attributes, as in the diffusers version of its time.
        for name in ("in_channels", "sample_size"):
            setattr(self.model.unet, name, self.model.unet.config[name])

    @torch.no_grad()
    def __call__(self, image: torch.Tensor, embeds: torch.Tensor, num_steps: int) -> torch.Tensor:
        """Anonymize one face: (1, 3, H, W) in [0, 1] by its (1, 512) embedding."""
        model, num_run = self.model, num_steps - round(num_steps * SKIP)
        model.scheduler.set_timesteps(num_steps)
        pixels = (2.0 * image - 1.0).to(model.device, model.dtype)
        scaling = model.vae.config.scaling_factor
        latents = model.vae.encode(pixels).latent_dist.mode() * scaling
        null = torch.zeros(1, 1, 1, embeds.shape[-1], device=model.device, dtype=model.dtype)
        opposite = -embeds[None, None].to(model.device, model.dtype)
        _, noise_maps, trajectory = self.invert(
            model,
            latents,
            etas=1.0,
            prompt="",
            cfg_scale=GUIDANCE,
            num_inference_steps=num_steps,
            ip_adapter_image_embeds=[torch.cat([null, null])],
        )
        latents, _ = self.denoise(
            model,
            xT=trajectory[num_run],
            etas=1.0,
            prompts=[""],
            cfg_scales=[GUIDANCE],
            zs=noise_maps[:num_run],
            ip_adapter_image_embeds=[torch.cat([null, opposite])],
            init_image=pixels,
            mask_image=torch.ones_like(pixels[:, :1]),
            generator=torch.Generator().manual_seed(0),
            mask_delay_steps=round(num_steps * MASK_START) - round(num_steps * SKIP),
        )
        return (model.vae.decode(latents / scaling).sample / 2.0 + 0.5).clamp(0.0, 1.0)


def all_methods(pipe: Any, published: Published, image: torch.Tensor, num_steps: int) -> list[Method]:
    """Methods to compare; the first, the baseline, is the published code in float32."""
    embeds, on_gpu = make_embeds(1), pipe.device.type == "cuda"
    half = torch.float16 if on_gpu else torch.bfloat16

    def ours(**settings: Any) -> Callable[[], torch.Tensor]:
        mask = torch.ones_like(image[:, :1])
        return lambda: pipe(image, embeds, mask, guidance_scale=GUIDANCE, output_type="pt", **settings).images

    def theirs() -> torch.Tensor:
        return published(image, embeds, num_steps)

    default = ours(num_inference_steps=num_steps, skip=SKIP)
    methods = [Method("published code", theirs, torch.float32, torch.float32, 160)]
    if on_gpu:  # its own dtype
        methods.append(Method("published code", theirs, half, half, 160))
    methods.append(Method("default", default, torch.float32, torch.float32, 89))
    vae_dtype = half if on_gpu else torch.float32
    few = ("fast", FAST_TIMESTEPS), ("preview", PREVIEW_TIMESTEPS)
    return [
        *methods,
        Method("default", default, half, vae_dtype, 89),
        *(Method(name, ours(timesteps=steps), half, vae_dtype, 3 * len(steps) - 1) for name, steps in few),
    ]


def run(pipe: Any, method: Method) -> tuple[Cost, torch.Tensor]:
    """Cost of a method, after one UNet evaluation as warm-up, and the pixels in [0, 1]."""
    pipe.unet.to(method.dtype)
    pipe.text_encoder.to(method.dtype)
    pipe.vae.to(method.vae_dtype)
    with torch.no_grad():
        size, device = pipe.unet.config.sample_size, pipe.device
        latents, null = torch.zeros(1, 4, size, size, device=device), torch.zeros(1, 512, device=device)
        text = pipe.prompt_conditions("", 8 * size, 8 * size)
        UNetDenoiser(pipe.unet, text)(latents, torch.tensor(1, device=device), null)
    torch.manual_seed(0)  # both codes draw the noise in the same order
    with measure(pipe.unet) as cost:
        pixels = method.run()
    return cost, pixels.float()


def at_paper_steps(method: Method, cost: Cost) -> tuple[float, float]:
    """Extrapolated seconds and processor seconds of 100 steps: only the UNet's share grows."""
    factor = method.paper_evaluations / cost.evaluations
    return (
        cost.seconds + (factor - 1.0) * cost.unet_seconds,
        cost.busy + (factor - 1.0) * cost.unet_busy,
    )


COLUMNS = (
    "method",
    "dtype",
    "evaluations",
    "seconds",
    "processor seconds",
    "peak GB",
    "times as fast",
    "by processor",
    f"at T = {PAPER_STEPS}: evaluations",
    "seconds",
    "times as fast",
    "by processor",
    "mean difference, of 255",
)


def row(method: Method, cost: Cost, first: tuple[Method, Cost]) -> list[str]:
    """One row of the table; `first` is the baseline."""
    seconds, busy = at_paper_steps(method, cost)
    first_seconds, first_busy = at_paper_steps(*first)
    return [
        method.name,
        str(method.dtype).removeprefix("torch."),
        str(cost.evaluations),
        f"{cost.seconds:.1f}",
        f"{cost.busy:.1f}",
        f"{cost.memory:.1f}",
        f"{first[1].seconds / cost.seconds:.2f}",
        f"{first[1].busy / cost.busy:.2f}",
        str(method.paper_evaluations),
        f"{seconds:.0f}",
        f"{first_seconds / seconds:.2f}",
        f"{first_busy / busy:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, required=True, help="folder of the clone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-inference-steps", type=int, default=PAPER_STEPS, help="T, except for few-step methods")
    args = parser.parse_args()

    pipe = make_full_size_pipeline().to(args.device)
    published = Published(args.published, pipe)
    image = make_images(1, 8 * pipe.unet.config.sample_size)
    print(f"# {args.device}, {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f} before the run")
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    first, first_pixels = None, torch.empty(0)
    for method in all_methods(pipe, published, image, args.num_inference_steps):
        cost, pixels = run(pipe, method)
        if first is None:
            first, first_pixels = (method, cost), pixels
        # Only for the same steps: with random weights, other steps give other images.
        difference = f"{255.0 * float((pixels - first_pixels).abs().mean()):.4f}" if method.name == "default" else ""
        print("| " + " | ".join([*row(method, cost, first), difference]) + " |", flush=True)
    print(f"# load average {os.getloadavg()[0]:.1f} after the run")


if __name__ == "__main__":
    main()
