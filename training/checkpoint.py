"""Keeps what the recognizer's training has reached in a file small enough to be committed, in half precision.

    python -m training.checkpoint        # writes training/checkpoint/recognizer.safetensors
    python -m training.recognizer --from training/checkpoint/recognizer.safetensors

The denoiser needs none: `python -m training.denoiser --from nullface_pipeline/tiny` goes on from what is shipped. The
optimizers' state is left out: both trainings find it again within some hundred steps.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.loop import RUNS


FOLDER = Path("training/checkpoint")


def keep(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write floating point weights in float16, and what else there is as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {name: x.half() if x.is_floating_point() else x for name, x in state.items()}
    save_file({name: x.contiguous() for name, x in halves.items()}, path)
    path.chmod(0o644)  # safetensors makes its files private


def kept(path: Path) -> dict[str, torch.Tensor]:
    """The weights that `keep` wrote, in float32, or the averaged ones of a checkpoint `.pt`."""
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu")["average"]
    return {name: x.float() if x.is_floating_point() else x for name, x in load_file(path).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep the weights of the recognizer.")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    parser.add_argument("--output", type=Path, default=FOLDER)
    args = parser.parse_args()
    network = torch.load(args.runs / "recognizer.pt", map_location="cpu")["network"]
    keep(network, args.output / "recognizer.safetensors")


if __name__ == "__main__":
    main()
