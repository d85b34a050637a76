"""The weights of the model sets: where they come from, how large they are, under which licence, and what of them is on
this machine. Nothing is fetched here; that is `fetch_weights`."""

from dataclasses import dataclass, replace
from pathlib import Path

from nullface_pipeline.face_adapter import FACEID_REPOSITORY
from nullface_pipeline.face_parsing import BISENET_SHA256, BISENET_URL, bisenet_path
from nullface_pipeline.pipeline import FACEID_WEIGHTS
from nullface_pipeline.pipeline_sdxl import FACEID_SDXL_WEIGHTS


MODELS = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
FACE_MODELS = "buffalo_l"

FOR_RESEARCH = "research only, non-commercial"


@dataclass(frozen=True, kw_only=True)
class _Described:
    """What there is to say of weights, wherever they come from.

    Attributes:
        source (`str`): repository or address.
        size (`int`): bytes to fetch; about, where the Hub knows them.
        licence_page (`str`): address of the licence's text.
    """

    name: str
    source: str
    size: int
    licence: str
    licence_page: str


@dataclass(frozen=True, kw_only=True)
class HubWeights(_Described):
    """Files of a repository of the Hub, which knows their hashes.

    Attributes:
        files (`tuple[str, ...]`): those that hold weights, by path in the repository.
        small_files (`tuple[str, ...]`): patterns of what else a pipeline needs; none where one file is all.
    """

    files: tuple[str, ...]
    small_files: tuple[str, ...] = ()

    @property
    def path(self) -> Path | None:
        """The pipeline's folder in the Hub's cache, or the one file; `None` unless all the weights are there."""
        from huggingface_hub import try_to_load_from_cache

        needed = ("model_index.json", *self.files) if self.small_files else self.files
        found = [try_to_load_from_cache(self.source, file) for file in needed]
        first = found[0]
        if not isinstance(first, str) or not all(isinstance(path, str) for path in found):
            return None
        return Path(first).parent if self.small_files else Path(first)


@dataclass(frozen=True, kw_only=True)
class ReleaseWeights(_Described):
    """A file that is attached to a release on GitHub.

    Attributes:
        sha256 (`str`): of that file.
        place (`Path`): where the library that uses them looks for them: a file, or the folder of an unpacked archive.
    """

    sha256: str
    place: Path

    @property
    def path(self) -> Path | None:
        """`place`, or `None` if the weights are not there."""
        return self.place if self.place.is_file() or any(self.place.glob("*.onnx")) else None


Weights = HubWeights | ReleaseWeights

SD15 = HubWeights(
    name="Stable Diffusion 1.5",
    source=MODELS["sd15"],
    size=4_270_000_000,
    licence="CreativeML OpenRAIL-M",
    licence_page="https://huggingface.co/spaces/CompVis/stable-diffusion-license",
    files=(
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ),
    # Not the safety checker: 1.2 GB that nothing here uses.
    small_files=(
        *("model_index.json", "scheduler/*", "tokenizer/*"),
        *("text_encoder/config.json", "unet/config.json", "vae/config.json"),
    ),
)
SDXL = HubWeights(
    name="Stable Diffusion XL",
    source=MODELS["sdxl"],
    size=13_880_000_000,
    licence="CreativeML Open RAIL++-M",
    licence_page="https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
    files=(*SD15.files, "text_encoder_2/model.safetensors"),
    small_files=(*SD15.small_files, "tokenizer_2/*", "text_encoder_2/config.json"),
)
FACEID_SD15 = HubWeights(
    name="IP-Adapter FaceID for 1.5",
    source=FACEID_REPOSITORY,
    size=97_000_000,
    licence=FOR_RESEARCH,
    licence_page="https://huggingface.co/h94/IP-Adapter-FaceID",
    files=(FACEID_WEIGHTS,),
)
FACEID_SDXL = replace(FACEID_SD15, name="IP-Adapter FaceID for XL", size=1_070_000_000, files=(FACEID_SDXL_WEIGHTS,))
BUFFALO_L = ReleaseWeights(
    name=f"InsightFace {FACE_MODELS}",
    source=f"https://github.com/deepinsight/insightface/releases/download/v0.7/{FACE_MODELS}.zip",
    size=288_621_354,
    licence=FOR_RESEARCH,
    licence_page="https://github.com/deepinsight/insightface/tree/master/model_zoo",
    # InsightFace publishes none. Many projects that fetched it have written down this one, and the size.
    sha256="80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
    place=Path("~/.insightface/models").expanduser() / FACE_MODELS,
)
BISENET = ReleaseWeights(
    name="BiSeNet face parser",
    source=BISENET_URL,
    size=53_289_463,
    licence="MIT; trained on CelebAMask-HQ, non-commercial",
    licence_page="https://github.com/switchablenorms/CelebAMask-HQ",
    sha256=BISENET_SHA256,
    place=bisenet_path(),
)

FACE_WEIGHTS: tuple[Weights, ...] = (BUFFALO_L, BISENET)
# What `nullface fetch` and `--model` know by name.
WEIGHT_SETS: dict[str, tuple[Weights, ...]] = {
    "sd15": (SD15, FACEID_SD15, *FACE_WEIGHTS),
    "sdxl": (SDXL, FACEID_SDXL, *FACE_WEIGHTS),
    "faces": FACE_WEIGHTS,
}


def missing_weights(name: str) -> list[Weights]:
    """What of a set of `WEIGHT_SETS` is not on this machine."""
    return [weights for weights in WEIGHT_SETS[name] if weights.path is None]


def readable_size(size: int) -> str:
    """Bytes as "4.3 GB" or "97 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 999_500_000 else f"{size / 1e6:.0f} MB"
