"""Store the recognizer's weights in half precision, small enough to be committed.

    python -m training.checkpoint        # writes training/checkpoint/recognizer.safetensors
    python -m training.recognizer --from training/checkpoint/recognizer.safetensors

The denoiser needs no such file: `python -m training.denoiser --from nullface_pipeline/tiny`
continues from the shipped weights. The optimizer state is left out; it recovers within some hundred
steps.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.loop import option_parser


def save_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file with floating-point tensors in float16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {name: x.half() if x.is_floating_point() else x for name, x in state.items()}
    save_file({name: x.contiguous() for name, x in halves.items()}, path)
    path.chmod(0o644)  # safetensors creates files that only the owner can read


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read float32 weights of `save_weights`, or the averaged weights of a `.pt` checkpoint."""
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu")["average"]
    return {name: x.float() if x.is_floating_point() else x for name, x in load_file(path).items()}


def main() -> None:
    args = option_parser(__doc__, "runs", output=Path("training/checkpoint")).parse_args()
    network = torch.load(args.runs / "recognizer.pt", map_location="cpu")["network"]
    save_weights(network, args.output / "recognizer.safetensors")


if __name__ == "__main__":
    main()
