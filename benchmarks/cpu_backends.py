"""Time, memory and error of CPU backends for one UNet evaluation of Stable Diffusion 1.5's size.

    pip install openvino nncf
    python -m benchmarks.cpu_backends "OpenVINO, int8"

The weights are random. Each backend evaluates the same batch of two in turn with float32 PyTorch,
on one thread. FaceID's LoRA is fused for all. Each backend holds a copy of the UNet.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.cost import PeakMemory
from benchmarks.full_size import make_full_size_pipeline
from nullface_pipeline.face_adapter import FACE_LORA_NAME
from tests.tiny_parts import make_embeds


WAYS = ("OpenVINO", "OpenVINO, int8 weights", "OpenVINO, int8")
COLUMNS = ("backend", "processor seconds", "range", "times as fast", "mean error", "largest error")

Inputs = tuple[torch.Tensor, ...]


class Tensors(torch.nn.Module):
    """UNet with tensors as its only arguments, for export."""

    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet

    def forward(
        self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, embeds: torch.Tensor
    ) -> torch.Tensor:
        return self.unet(latents, timesteps, text, added_cond_kwargs={"image_embeds": [embeds]}, return_dict=False)[0]


def in_openvino(unet: Tensors, way: str, inputs: Inputs) -> Callable[..., torch.Tensor]:
    """The UNet in OpenVINO, with the shapes of the inputs."""
    import nncf
    import openvino

    small = (inputs[0][..., :8, :8], *inputs[1:])  # tracing takes less time
    traced = torch.jit.trace(unet, small, check_trace=False)
    model = openvino.convert_model(traced, example_input=small, input=[tuple(each.shape) for each in inputs])
    if way == "OpenVINO, int8 weights":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    elif way == "OpenVINO, int8":
        model = nncf.quantize(
            model,
            nncf.Dataset([[each.numpy() for each in inputs]]),
            subset_size=1,
            model_type=nncf.ModelType.TRANSFORMER,
            # Correction takes minutes, and does not change the speed.
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
        )
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})
    return lambda *inputs: torch.from_numpy(compiled([each.numpy() for each in inputs])[0].copy())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="+", choices=WAYS)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)

    pipe = make_full_size_pipeline()
    pipe.fuse_lora(["unet"], adapter_names=[FACE_LORA_NAME])
    unet, text = Tensors(pipe.unet), pipe.prompt_conditions("", 512, 512)["prompt_embeds"]
    latents = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    inputs = latents, torch.tensor([500, 500]), text.expand(2, -1, -1), make_embeds(2)[:, None]

    runs: dict[str, Callable[..., torch.Tensor]] = {"PyTorch": unet}
    results = {"PyTorch": unet(*inputs)}
    for way in args.ways:
        started, memory = time.process_time(), PeakMemory(torch.device("cpu"))
        with memory:
            runs[way] = in_openvino(unet, way, inputs)
            prepared = time.process_time() - started
            results[way] = runs[way](*inputs)
        print(f"# {way}: prepared in {prepared:.0f} processor seconds, at most {memory.peak:.1f} GB", flush=True)

    seconds: dict[str, list[float]] = {way: [] for way in runs}
    for _ in range(args.repeats):
        for way, run in runs.items():
            started = time.process_time()
            run(*inputs)
            seconds[way].append(time.process_time() - started)
            print(f"# {way}: {seconds[way][-1]:.1f}", flush=True)
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    for way, values in seconds.items():
        ratio = statistics.median(first / each for first, each in zip(seconds["PyTorch"], values))
        error, size = (results[way] - results["PyTorch"]).abs(), results["PyTorch"].abs().mean()
        spread = f"{min(values):.1f} to {max(values):.1f}"
        errors = f"{error.mean() / size:.1e} | {error.max() / size:.1e}"
        print(f"| {way} | {statistics.median(values):.1f} | {spread} | {ratio:.2f} | {errors} |")


if __name__ == "__main__":
    main()
