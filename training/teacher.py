"""The identity space of nullface-tiny: that of a real face recognizer of MobileFaceNet type, centred and normalised.

The recognizer is an ONNX file (`--teacher`) that takes one face at a time; read into torch it takes
batches. Its raw embeddings share a part: of strangers' similarity, and most of all of how old photographs look.
Centred on the mean of the training portraits, each counted as often as it is trained on, strangers are orthogonal on
average, and the negative of an embedding is another person in a photograph of the same kind.

    python -m training.teacher        # after training.latent_cache; embeds several views of every portrait
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from training.loop import RUNS
from training.portraits import load_portraits
from training.views import aligned_crop, clean_view, random_view


EMBEDDING_SIZE = 512
TEACHER = Path("../shared/models/face_recognizer_512.onnx")


class TeacherNetwork(nn.Module):
    """The ONNX file's convolutions, PReLUs and sums as a module: (N, 3, 112, 112) RGB, (value - 127) / 128, to (N, 512).

    Frozen.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        graph = onnx.load(path).graph
        constants = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
        self.layers = nn.ModuleDict()
        self.steps: list[tuple[str, list[str], str]] = []
        for node in graph.node:
            inputs = [name for name in node.input if name not in constants]
            name = node.output[0].replace(".", "_")
            if node.op_type == "Conv":
                settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                self.layers[name] = _convolution(constants[node.input[1]], constants[node.input[2]], settings)
            elif node.op_type == "PRelu":
                slope = constants[node.input[1]].flatten()
                self.layers[name] = nn.PReLU(len(slope))
                self.layers[name].get_parameter("weight").data = slope
            elif node.op_type not in ("Add", "Reshape"):
                raise ValueError(f"{path} has a layer {node.op_type}, which is not known here.")
            self.steps.append((node.op_type, [name.replace(".", "_") for name in inputs], name))
        self.first = graph.input[0].name.replace(".", "_")
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        values = {self.first: x}
        for kind, inputs, output in self.steps:
            if kind == "Add":
                x = values[inputs[0]] + values[inputs[1]]
            elif kind == "Reshape":
                x = values[inputs[0]].flatten(1)
            else:
                x = self.layers[output](values[inputs[0]])
            values[output] = x
        return x


def _convolution(weight: Tensor, bias: Tensor, settings: dict) -> nn.Conv2d:
    groups = settings["group"]
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        tuple(settings["strides"]),
        padding=tuple(settings["pads"][:2]),
        groups=groups,
    )
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.to(memory_format=torch.channels_last)


def to_teacher(views: np.ndarray) -> Tensor:
    """(N, 112, 112, 3) uint8 RGB to the teacher's input (N, 3, 112, 112) float32."""
    return (torch.from_numpy(np.ascontiguousarray(views)).permute(0, 3, 1, 2).float() - 127.0) / 128.0


@torch.inference_mode()
def raw_embeddings(network: TeacherNetwork, views: np.ndarray) -> np.ndarray:
    """(N, 112, 112, 3) uint8 RGB aligned faces to (N, 512) float32 unit-norm embeddings, not centred.

    In bfloat16, which is three times as fast; the cosine to the float32 embedding is 0.9995.
    """
    with torch.autocast("cpu", torch.bfloat16):
        raw = network(to_teacher(views).contiguous(memory_format=torch.channels_last))
    return F.normalize(raw.float()).numpy()


@dataclass(frozen=True)
class TeacherEmbeddings:
    """What the teacher says of several views of every portrait of one split, in file order, not centred."""

    ids: np.ndarray  # (N,) str
    raw: np.ndarray  # (N, V, 512) float32 unit norm: clean view, mirrored, changed ones

    @classmethod
    def load(cls, split: str, runs: Path) -> "TeacherEmbeddings":
        """Read what `python -m training.teacher` wrote of `train` or `validation`."""
        with np.load(runs / f"teacher_{split}.npz") as file:
            return cls(file["ids"], file["raw"].astype(np.float32))

    def save(self, split: str, runs: Path) -> None:
        """Write the file, under a temporary name first."""
        temporary = runs / f"teacher_{split}.part.npz"
        np.savez(temporary, ids=self.ids, raw=self.raw.astype(np.float16))
        temporary.replace(runs / f"teacher_{split}.npz")

    def of(self, ids: np.ndarray) -> np.ndarray:
        """(N, V, 512) embeddings of the portraits `ids`."""
        row = {portrait: index for index, portrait in enumerate(self.ids)}
        return self.raw[[row[portrait] for portrait in ids]]


def embed_split(network: TeacherNetwork, data: Path | str, split: str, changed: int, seed: int) -> TeacherEmbeddings:
    """Ask the teacher about every portrait of a split: its clean view, that mirrored, and `changed` random views."""
    ids, raw = [], []
    for index, portrait in enumerate(track(load_portraits(data, split), f"embedding {split}")):
        rng = np.random.default_rng([seed, index])
        crop = aligned_crop(portrait)
        clean = clean_view(crop)
        views = [clean, clean[:, ::-1], *(random_view(crop, rng) for _ in range(changed))]
        ids.append(portrait.id)
        raw.append(raw_embeddings(network, np.stack(views)))
    return TeacherEmbeddings(np.array(ids), np.stack(raw))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute the teacher's embeddings of all portraits.")
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--teacher", type=Path, default=TEACHER)
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    parser.add_argument("--changed", type=int, default=3, help="changed views a portrait, besides the clean ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.runs.mkdir(parents=True, exist_ok=True)
    network = TeacherNetwork(args.teacher)
    for split in ("validation", "train"):
        embed_split(network, args.data, split, args.changed, args.seed).save(split, args.runs)


if __name__ == "__main__":
    main()
