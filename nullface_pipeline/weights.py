"""The weights of the model sets: source, size, licence, and which are on this machine.

Nothing is downloaded here, see `fetch_weights`.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from nullface_pipeline.face_adapter import FACEID_REPOSITORY
from nullface_pipeline.face_parsing import BISENET_SHA256, BISENET_URL, bisenet_path
from nullface_pipeline.pipeline import FACEID_WEIGHTS
from nullface_pipeline.pipeline_sdxl import FACEID_SDXL_WEIGHTS


# The publishers of these weights publish no hashes outside the place where the files are. All
# hashes here but BiSeNet's and all commits were taken from public repositories that had written
# them down when they fetched the files, most from three or more; SDXL's UNet and the sizes of
# buffalo_s and buffalo_sc from fewer. None was computed by this project.
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
    """Files of one commit of a repository of the Hub.

    Attributes:
        revision (`str`): the commit.
        files (`dict[str, str]`): SHA-256 of the files that hold weights, by path in the repository.
        small_files (`tuple[str, ...]`): patterns of the configuration and tokenizer files that a
            pipeline needs; empty where one file is all. They are pinned by the commit only.
    """

    revision: str
    files: dict[str, str]
    small_files: tuple[str, ...] = ()

    @property
    def path(self) -> Path | None:
        """Folder in the Hub's cache, or the one file; `None` unless all weights are there."""
        from huggingface_hub import try_to_load_from_cache

        needed = ("model_index.json", *self.files) if self.small_files else self.files
        found = [try_to_load_from_cache(self.source, file, revision=self.revision) for file in needed]
        first = found[0]
        if not isinstance(first, str) or not all(isinstance(path, str) for path in found):
            return None
        return Path(first).parent if self.small_files else Path(first)


@dataclass(frozen=True, kw_only=True)
class ReleaseWeights(_Described):
    """A file that is attached to a release on GitHub.

    Attributes:
        sha256 (`str`): of that file.
        place (`Path`): where the library that uses them looks for them: a file, or the folder of an
            unpacked archive.
        unpacked (`dict[str, str]`): SHA-256 of the files of an archive by name; empty where they
            are not known.
    """

    sha256: str
    place: Path
    unpacked: dict[str, str] = field(default_factory=dict)

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
    revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    files={
        "text_encoder/model.safetensors": "d008943c017f0092921106440254dbbe00b6a285f7883ec8ba160c3faad88334",
        "unet/diffusion_pytorch_model.safetensors": "19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1",
        "vae/diffusion_pytorch_model.safetensors": "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c",
    },
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
    revision="462165984030d82259a11f4367a4eed129e94a7b",
    files={
        "text_encoder/model.safetensors": "5c3d6454dd2d23414b56aa1b5858a72487a656937847b6fea8d0606d7a42cdbc",
        "text_encoder_2/model.safetensors": "3a6032f63d37ae02bbc74ccd6a27440578cd71701f96532229d0154f55a8d3ff",
        "unet/diffusion_pytorch_model.safetensors": "357650fbfb3c7b4d94c1f5fd7664da819ad1ff5a839430484b4ec422d03f710a",
        "vae/diffusion_pytorch_model.safetensors": "1598f3d24932bcfe6634e8b618ea1e30ab1d57f5aad13a6d2de446d2199f2341",
    },
    small_files=(*SD15.small_files, "tokenizer_2/*", "text_encoder_2/config.json"),
)
FACEID_SD15 = HubWeights(
    name="IP-Adapter FaceID for 1.5",
    source=FACEID_REPOSITORY,
    size=97_000_000,
    licence=FOR_RESEARCH,
    licence_page="https://huggingface.co/h94/IP-Adapter-FaceID",
    revision="43907e6f44d079bf1a9102d9a6e56aef7a219bae",
    files={FACEID_WEIGHTS: "201344e22e6f55849cf07ca7a6e53d8c3b001327c66cb9710d69fd5da48a8da7"},
)
FACEID_SDXL = replace(
    FACEID_SD15,
    name="IP-Adapter FaceID for XL",
    size=1_070_000_000,
    files={FACEID_SDXL_WEIGHTS: "f455fed24e207c878ec1e0466b34a969d37bab857c5faa4e8d259a0b4ff63d7e"},
)


def _insightface_pack(name: str, size: int, sha256: str, unpacked: dict[str, str] | None = None) -> ReleaseWeights:
    return ReleaseWeights(
        name=f"InsightFace {name}",
        source=f"https://github.com/deepinsight/insightface/releases/download/v0.7/{name}.zip",
        size=size,
        licence=FOR_RESEARCH,
        licence_page="https://github.com/deepinsight/insightface/tree/master/model_zoo",
        sha256=sha256,
        place=Path("~/.insightface/models").expanduser() / name,
        unpacked=unpacked or {},
    )


BUFFALO_L = _insightface_pack(
    FACE_MODELS,
    288_621_354,
    "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
    {
        "1k3d68.onnx": "df5c06b8a0c12e422b2ed8947b8869faa4105387f199c477af038aa01f9a45cc",
        "2d106det.onnx": "f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf",
        "det_10g.onnx": "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
        "genderage.onnx": "4fde69b1c810857b88c64a335084f1c3fe8f01246c9a191b48c7bb756d6652fb",
        "w600k_r50.onnx": "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
    },
)
# InsightFace packs by name, for a second recognizer.
PACKS: dict[str, ReleaseWeights] = {
    FACE_MODELS: BUFFALO_L,
    "buffalo_m": _insightface_pack(
        "buffalo_m", 275_951_529, "d98264bd8f2dc75cbc2ddce2a14e636e02bb857b3051c234b737bf3b614edca9"
    ),
    "buffalo_s": _insightface_pack(
        "buffalo_s", 127_607_557, "d85a87f503f691807cd8bb97128bdf7a0660326cd9cd02657127fa978bab8b5e"
    ),
    "buffalo_sc": _insightface_pack(
        "buffalo_sc", 14_969_382, "57d31b56b6ffa911c8a73cfc1707c73cab76efe7f13b675a05223bf42de47c72"
    ),
    "antelopev2": _insightface_pack(
        "antelopev2", 360_662_982, "8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5"
    ),
}
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
