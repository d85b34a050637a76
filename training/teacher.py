"""Embed all portraits with the teacher, a MobileFaceNet recognizer that defines the identity space.

    python -m training.teacher        # after training.latent_cache

The teacher is an ONNX file for one face at a time; converted to torch, it takes batches. Its raw
embeddings have a large common component, mostly due to the look of old photographs. They are
therefore centred on the weighted mean of the training portraits. Different people are then
orthogonal on average, and the opposite of an embedding is another person in a similar photograph.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from training.loop import ArrayCache, option_parser, set_up
from training.portraits import load_portraits
from training.views import aligned_crop, clean_view, random_view


EMBEDDING_SIZE = 512


class TeacherNetwork(nn.Module):
    """The ONNX file's layers as a frozen module: (N, 3, 112, 112) of `to_teacher` to (N, 512).

    Raises:
        ValueError: If the file has a layer other than Conv, PRelu, Add and Reshape.
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
                raise ValueError(f"{path} has an unsupported layer {node.op_type}. Use a MobileFaceNet file.")
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
    """Convert (N, 112, 112, 3) uint8 RGB to the teacher's (N, 3, 112, 112) float32 input."""
    return (torch.from_numpy(np.ascontiguousarray(views)).permute(0, 3, 1, 2).float() - 127.0) / 128.0


@torch.inference_mode()
def raw_embeddings(network: TeacherNetwork, views: np.ndarray) -> np.ndarray:
    """(N, 512) float32 unit-norm uncentred embeddings of (N, 112, 112, 3) uint8 RGB faces.

    bfloat16 is three times as fast; the cosine to float32 embeddings is 0.9995.
    """
    with torch.autocast("cpu", torch.bfloat16):
        raw = network(to_teacher(views).contiguous(memory_format=torch.channels_last))
    return F.normalize(raw.float()).numpy()


@dataclass(frozen=True)
class TeacherEmbeddings(ArrayCache):
    """The teacher's uncentred embeddings of some views of each portrait of a split."""

    FILE = "teacher_{split}.npz"
    ids: np.ndarray  # (N,) str, ids of the portraits
    raw: np.ndarray  # (N, V, 512) float16 unit norm: clean view, mirrored view, augmented views

    def select(self, ids: np.ndarray) -> np.ndarray:
        """(N, V, 512) float32 embeddings of the portraits `ids`."""
        return self.raw[rows_of(ids, self.ids)].astype(np.float32)


def rows_of(ids: np.ndarray, all_ids: np.ndarray) -> list[int]:
    """Positions of `ids` in `all_ids`."""
    rows = {portrait_id: row for row, portrait_id in enumerate(all_ids)}
    return [rows[portrait_id] for portrait_id in ids]


def embed_split(network: TeacherNetwork, data: Path, split: str, changed: int, seed: int) -> TeacherEmbeddings:
    """Embed each portrait's clean view, its mirrored clean view, and `changed` augmented views."""
    ids, raw = [], []
    for index, portrait in enumerate(track(load_portraits(data, split), f"embedding {split}")):
        rng = np.random.default_rng([seed, index])
        crop = aligned_crop(portrait)
        clean = clean_view(crop)
        views = [clean, clean[:, ::-1], *(random_view(crop, rng) for _ in range(changed))]
        ids.append(portrait.id)
        raw.append(raw_embeddings(network, np.stack(views)))
    return TeacherEmbeddings(np.array(ids), np.stack(raw).astype(np.float16))


def main() -> None:
    parser = option_parser(__doc__, "data", "teacher", "runs", "seed", "threads")
    parser.add_argument("--changed", type=int, default=3, help="augmented views per portrait")
    args = parser.parse_args()
    set_up(args.threads)
    args.runs.mkdir(parents=True, exist_ok=True)
    network = TeacherNetwork(args.teacher)
    for split in ("validation", "train"):
        embed_split(network, args.data, split, args.changed, args.seed).save(args.runs, split)


if __name__ == "__main__":
    main()
