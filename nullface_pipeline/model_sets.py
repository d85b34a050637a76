"""Complete pipelines by name, for the command line and the Space."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import constants, try_to_load_from_cache

from nullface_pipeline.face_adapter import FACE_LORA_NAME, FACEID_REPOSITORY, has_face_lora
from nullface_pipeline.face_identity import DETECTION_THRESHOLD, load_face_analyser
from nullface_pipeline.fetch_weights import check_connection, fetch_missing
from nullface_pipeline.photo_records import OptionError
from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline
from nullface_pipeline.pipeline_sdxl import StableDiffusionXLNullFacePipeline
from nullface_pipeline.protocols import FaceAnalyser
from nullface_pipeline.runs.messages import format_error
from nullface_pipeline.tiny_model import TINY_FOLDER, load_nullface_tiny
from nullface_pipeline.weights import FACE_MODELS, MODELS, WEIGHT_SETS


# Argument of `from_pretrained`, renamed in diffusers 0.40.
DTYPE = "dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 40) else "torch_dtype"


def load_model_set(
    name: str = "tiny",
    device: str | None = None,
    dtype: torch.dtype | None = None,
    detection_threshold: float = DETECTION_THRESHOLD,
    compile: bool = False,
) -> StableDiffusionNullFacePipeline | StableDiffusionXLNullFacePipeline:
    """Load a pipeline with adapter and face models.

    Args:
        name (`str`): "tiny", "sd15", "sdxl", or a folder or Hub name of a Stable Diffusion 1.5 or
            XL model.
        device (`str`, *optional*): "cuda" if available, else "mps", else "cpu" by default.
        dtype (`torch.dtype`, *optional*): of the UNet and the text encoder, see `default_dtype`. On
            a CPU, the VAE of a Stable Diffusion model is always float32.
        detection_threshold (`float`): lowest detection score that counts as a face.
        compile (`bool`): compile the UNet with `torch.compile`, FaceID's LoRA fused into it. The
            first calls take minutes; meant for long runs on a GPU.

    Raises:
        OptionError: (a `ValueError`) if this machine does not have the device.
        OSError, RuntimeError, ValueError: if a part cannot be found, downloaded or read. Missing
            files of "sd15" and "sdxl" are downloaded and verified.
    """
    device = default_device() if device is None else check_device(device)
    dtype = dtype or default_dtype(name, device)
    if name == "tiny":
        pipe = load_nullface_tiny(device, dtype, detection_threshold)
    else:
        model, adapter = stable_diffusion(name)
        vae_dtype = torch.float32 if device == "cpu" else dtype
        pipe = pipeline_class(model).from_pretrained(model, **{DTYPE: {"default": dtype, "vae": vae_dtype}})
        pipe.load_face_adapter(adapter)
        pipe.to(device)
        pipe.load_face_models(FACE_MODELS, detection_threshold=detection_threshold)
    pipe.set_progress_bar_config(disable=True)
    if compile:
        compile_unet(pipe)
    return pipe


def stable_diffusion(name: str) -> tuple[str, str]:
    """Paths of a Stable Diffusion model and its FaceID adapter: downloaded files, else Hub names.

    For a Hub name, diffusers would also download the safety checker, and call the Hub at every
    load.
    """
    if name not in MODELS:
        if not Path(name).exists() and try_to_load_from_cache(name, "model_index.json") is None:
            check_hub(name)
        fetch_missing("faces")
        return name, FACEID_REPOSITORY
    fetch_missing(name)
    model, adapter = (str(weights.path) for weights in WEIGHT_SETS[name][:2])
    return model, adapter


def check_hub(name: str) -> None:
    """Check that the Hub can be reached, for a model that is not on this machine."""
    try:
        check_connection(constants.ENDPOINT)
    except OSError as error:
        raise OSError(
            f"{name} is not on this machine, and cannot be downloaded ({format_error(error)}). Pass the folder of a "
            "model, or use the model tiny."
        ) from error


def default_device() -> str:
    """The fastest available device."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> str:
    """Return the name of a device that this machine has.

    Raises:
        OptionError: if the machine does not have it, or it is not the name of a device.
    """
    try:
        kind, index = (named := torch.device(device)).type, named.index or 0
    except RuntimeError as error:
        raise OptionError("device", f"{device!r} is not a device. Pass cpu, cuda, cuda:N or mps.") from error
    count = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else 0
    if kind == "cuda" and index >= count:
        found = f"{count} CUDA devices" if count else "no usable CUDA device"
        raise OptionError("device", f"{device} is not available: torch found {found}. See `nullface doctor`.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise OptionError("device", "mps is not available: torch found no usable Apple GPU. See `nullface doctor`.")
    return device


def default_dtype(name: str, device: str) -> torch.dtype:
    """float16 on a GPU; on a CPU bfloat16 if it has instructions for it. Float32 for "tiny".

    nullface-tiny is too small to gain much.
    """
    if device != "cpu":
        return torch.float16
    # Missing in older versions of torch.
    instructions: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    multiplies_bfloat16 = instructions.get("amx_bf16", False) or instructions.get("avx512_bf16", False)
    return torch.bfloat16 if multiplies_bfloat16 and name != "tiny" else torch.float32


def compile_unet(pipe: StableDiffusionNullFacePipeline) -> None:
    """Fuse FaceID's LoRA and compile the UNet in place; unfused, each call would add the LoRA."""
    if has_face_lora(pipe.unet):
        pipe.fuse_lora(["unet"], adapter_names=[FACE_LORA_NAME])
    pipe.unet.compile()


def pipeline_class(model: str) -> type[Any]:
    """Pipeline class for a folder or Hub name of a model: XL has a second text encoder."""
    components = DiffusionPipeline.load_config(model)
    return StableDiffusionXLNullFacePipeline if "text_encoder_2" in components else StableDiffusionNullFacePipeline


def load_detector(name: str = "tiny", detection_threshold: float = DETECTION_THRESHOLD) -> FaceAnalyser:
    """Load only the face models of a model set, as an InsightFace `FaceAnalysis`."""
    if name == "tiny":
        return load_face_analyser(TINY_FOLDER / "face_models", detection_threshold=detection_threshold)
    fetch_missing("faces")
    return load_face_analyser(FACE_MODELS, detection_threshold=detection_threshold)
