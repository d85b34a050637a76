"""Complete pipelines by name, as the command line and the Space offer them."""

from typing import Any

import torch
from diffusers import DiffusionPipeline

from nullface_pipeline.face_adapter import FACE_LORA_NAME, FACEID_REPOSITORY, has_face_lora
from nullface_pipeline.face_identity import DETECTION_THRESHOLD, load_face_analyser
from nullface_pipeline.fetch_weights import fetch_missing
from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline
from nullface_pipeline.pipeline_sdxl import StableDiffusionXLNullFacePipeline
from nullface_pipeline.protocols import FaceAnalyser
from nullface_pipeline.tiny_model import TINY_FOLDER, load_nullface_tiny
from nullface_pipeline.weights import FACE_MODELS, MODELS, WEIGHT_SETS


def load_model_set(
    name: str = "tiny",
    device: str | None = None,
    dtype: torch.dtype | None = None,
    detection_threshold: float = DETECTION_THRESHOLD,
    compile: bool = False,
) -> StableDiffusionNullFacePipeline | StableDiffusionXLNullFacePipeline:
    """A pipeline with adapter and face models.

    Args:
        name (`str`): "tiny", "sd15", "sdxl", or a folder or Hub name of a Stable Diffusion 1.5 or XL model.
        device (`str`, *optional*): CUDA where there is a device, else a Mac's "mps", else the CPU.
        dtype (`torch.dtype`, *optional*): of the UNet and the text encoder; by default what suits the processor, see
            `default_dtype`. On a CPU the VAE of a Stable Diffusion model is float32 in any case.
        detection_threshold (`float`): lowest detection score that counts as a face.
        compile (`bool`): compile the UNet with `torch.compile`, FaceID's LoRA fused into it. The first calls take
            minutes; meant for long runs on a GPU.

    Raises:
        OSError, RuntimeError, ValueError: if a part cannot be found, fetched or read. What is missing of "sd15" and
            "sdxl" is fetched and compared with its hashes; where that cannot be, the error says how large it is.
    """
    device = device or default_device()
    dtype = dtype or default_dtype(name, device)
    if name == "tiny":
        pipe = load_nullface_tiny(device, dtype, detection_threshold)
    else:
        model, adapter = stable_diffusion(name)
        vae_dtype = torch.float32 if device == "cpu" else dtype
        pipe = pipeline_class(model).from_pretrained(model, dtype={"default": dtype, "vae": vae_dtype})
        pipe.load_face_adapter(adapter)
        pipe.to(device)
        pipe.load_face_models(FACE_MODELS, detection_threshold=detection_threshold)
    pipe.set_progress_bar_config(disable=True)
    if compile:
        compile_unet(pipe)
    return pipe


def stable_diffusion(name: str) -> tuple[str, str]:
    """Where a Stable Diffusion model and its FaceID adapter are: fetched files of "sd15" and "sdxl", else Hub names.

    By a Hub name, diffusers would fetch the safety checker as well, and ask the Hub on every load.
    """
    if name not in MODELS:
        fetch_missing("faces")
        return name, FACEID_REPOSITORY
    fetch_missing(name)
    model, adapter = (str(weights.path) for weights in WEIGHT_SETS[name][:2])
    return model, adapter


def default_device() -> str:
    """The fastest there is."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def default_dtype(name: str, device: str) -> torch.dtype:
    """float16 on a GPU; on a CPU bfloat16 where the processor multiplies it, and float32 elsewhere and for "tiny".

    nullface-tiny is so small that it gains little by it.
    """
    if device != "cpu":
        return torch.float16
    instructions = torch.cpu.get_capabilities()
    multiplies_bfloat16 = instructions.get("amx_bf16", False) or instructions.get("avx512_bf16", False)
    return torch.bfloat16 if multiplies_bfloat16 and name != "tiny" else torch.float32


def compile_unet(pipe: StableDiffusionNullFacePipeline) -> None:
    """Compile the UNet in place, FaceID's LoRA fused into it: compiled code would add it up layer by layer."""
    if has_face_lora(pipe.unet):
        pipe.fuse_lora(["unet"], adapter_names=[FACE_LORA_NAME])
    pipe.unet.compile()


def pipeline_class(model: str) -> type[Any]:
    """The class for a folder or Hub name of a Stable Diffusion model: XL has a second text encoder."""
    components = DiffusionPipeline.load_config(model)
    return StableDiffusionXLNullFacePipeline if "text_encoder_2" in components else StableDiffusionNullFacePipeline


def load_detector(name: str = "tiny", detection_threshold: float = DETECTION_THRESHOLD) -> FaceAnalyser:
    """Only the part of a model set that finds faces: an InsightFace `FaceAnalysis`."""
    if name == "tiny":
        return load_face_analyser(TINY_FOLDER / "face_models", detection_threshold=detection_threshold)
    fetch_missing("faces")
    return load_face_analyser(FACE_MODELS, detection_threshold=detection_threshold)
