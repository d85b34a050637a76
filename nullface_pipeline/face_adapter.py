"""The FaceID adapter in the UNet: loading, checks, scale, and one identity for each sample.

FaceID attends to identity tokens beside the text tokens (decoupled cross-attention, Eq. 2) and has
a second half, a LoRA on every attention layer. Loading both is diffusers' work (`load_ip_adapter`);
what diffusers leaves to chance is here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.image_processor import PipelineImageInput
from diffusers.models.attention_processor import (
    IPAdapterAttnProcessor,
    IPAdapterAttnProcessor2_0,
    IPAdapterXFormersAttnProcessor,
)
from diffusers.models.embeddings import (
    IPAdapterFaceIDImageProjection,
    IPAdapterFaceIDPlusImageProjection,
    MultiIPAdapterImageProjection,
)
from diffusers.utils import is_peft_available, logging

from .face_identity import (
    DETECTION_THRESHOLD,
    FACEID_RECOGNIZER,
    choose_face,
    detect_faces,
    load_face_analyser,
    recognizer_name,
)
from .face_parsing import load_face_parser
from .image_inputs import to_uint8
from .protocols import FaceAnalyser, FaceSegmenter


FACEID_REPOSITORY = "h94/IP-Adapter-FaceID"
FACEID_TOKENS = 4

# The name under which `load_ip_adapter` registers the LoRA half of the first adapter.
FACE_LORA_NAME = "faceid_0"

IP_ADAPTER_PROCESSORS = (IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0, IPAdapterXFormersAttnProcessor)


class FaceAdapterMixin:
    """Mixin that loads the FaceID adapter and the face models, beside diffusers' loading mixins.

    It must precede them among a pipeline's bases, because it extends `load_lora_weights` and
    `save_pretrained`.
    """

    unet: UNet2DConditionModel
    face_analyser: FaceAnalyser = None  # type: ignore[assignment]  # until `load_face_models`
    face_parser: FaceSegmenter = None  # type: ignore[assignment]  # until `load_face_models`
    _execution_device: torch.device
    _lora_loadable_modules: list[str]
    load_ip_adapter: Callable
    prepare_image: Callable
    unload_ip_adapter: Callable
    unfuse_lora: Callable
    face_adapter_name: str  # of the published weight file
    _face_adapter_weights = ""

    def load_face_adapter(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, dict[str, torch.Tensor]] = FACEID_REPOSITORY,
        weight_name: str | None = None,
        subfolder: str | None = None,
        **kwargs,
    ):
        r"""
        Load IP-Adapter FaceID, both its attention and its LoRA half. LoRA adapters that are active
        stay active.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `Path` or `dict`, *optional*, defaults to
                `"h94/IP-Adapter-FaceID"`): A Hub repository, a folder, a weight file, or a state
                dict with the keys `image_proj` and `ip_adapter`.
            weight_name (`str`, *optional*):
                Name of the weight file in the repository or folder; by default the file published
                for the model, such as `ip-adapter-faceid_sd15.bin`.
            subfolder (`str`, *optional*):
                Folder of the weight file within the repository.
            kwargs: Passed on to [`~loaders.IPAdapterMixin.load_ip_adapter`], for example
                `local_files_only` or `token`.

        Raises:
            RuntimeError: if `peft` is missing, which FaceID's LoRA half needs.
            ValueError: if it is not a plain FaceID adapter.
        """
        if not is_peft_available():
            raise RuntimeError("The FaceID adapter's LoRA half needs peft: `pip install peft`.")
        source = pretrained_model_name_or_path_or_dict
        if isinstance(source, (str, Path)):
            source = str(source)
            weight_name = weight_name or (Path(source).name if Path(source).is_file() else self.face_adapter_name)
        self.unload_face_adapter()
        models = [getattr(self, name) for name in self._lora_loadable_modules]
        active = {model: active_loras(model) for model in models}
        try:
            self.load_ip_adapter(
                source, subfolder=subfolder, weight_name=weight_name or "", image_encoder_folder=None, **kwargs
            )
            check_kind_of_adapter(self.unet, self.face_adapter_name)
        except BaseException:
            self.unload_face_adapter()  # half an adapter would run with wrong results
            raise
        finally:
            # `load_ip_adapter` makes its LoRA the only active one.
            for model, names in active.items():
                added = [FACE_LORA_NAME] if model is self.unet and has_face_lora(model) else []
                activate_loras(model, [*names, *added])
        # Stored on the UNet, which pipelines may share, so that a missing LoRA half is detected.
        self.unet.encoder_hid_proj.has_lora_half = has_face_lora(self.unet)
        self._face_adapter_weights = weight_name or ""
        self._warn_of_other_recognizer()

    def load_lora_weights(self, *args, **kwargs):
        r"""See [`~loaders.StableDiffusionLoraLoaderMixin.load_lora_weights`]; keeps FaceID's."""
        super().load_lora_weights(*args, **kwargs)  # type: ignore[misc]
        names = active_loras(self.unet)
        if has_face_lora(self.unet) and FACE_LORA_NAME not in names:
            activate_loras(self.unet, [*names, FACE_LORA_NAME])

    def unload_face_adapter(self):
        r"""Remove both halves of the FaceID adapter, if loaded; other LoRA adapters stay."""
        self._face_adapter_weights = ""
        if getattr(self.unet, "encoder_hid_proj", None) is not None:
            self.unload_ip_adapter()
        if not has_face_lora(self.unet):
            return
        if is_fused(self.unet):
            self.unfuse_lora(["unet"])  # otherwise the LoRA stays in the weights
        if set(self.unet.peft_config) == {FACE_LORA_NAME}:
            self.unet.unload_lora()
        else:
            self.unet.delete_adapters(FACE_LORA_NAME)

    def load_face_models(
        self,
        face_analyser: str | Path | FaceAnalyser = "buffalo_l",
        face_parser: str | Path | FaceSegmenter | None = "bisenet",
        providers: list[str] | None = None,
        detection_threshold: float = DETECTION_THRESHOLD,
        detection_size: tuple[int, int] | None = None,
    ):
        r"""
        Load the models that find, recognize and parse faces.

        Args:
            face_analyser (`str`, `Path` or `insightface.app.FaceAnalysis`, *optional*, defaults to
                `"buffalo_l"`):
                An InsightFace pack by name, a folder of its ONNX files, or a prepared object. The
                published FaceID adapters were trained on the recognizer of `buffalo_l`.
            face_parser (`str`, `Path`, callable or `None`, *optional*, defaults to `"bisenet"`):
                facexlib's BiSeNet, a file of its weights, a folder or Hub name of a transformers
                segmentation model with CelebAMask-HQ labels, an object that works like
                `FaceParser`, or `None` to go without.
            providers (`list[str]`, *optional*):
                ONNX Runtime providers; CUDA where it is installed, else CPU.
            detection_threshold (`float`, *optional*, defaults to 0.3):
                Lowest detection score that counts as a face.
            detection_size (`tuple[int, int]`, *optional*):
                Width and height that a photo is scaled to for detection; InsightFace's default if
                not given.
        """
        self.face_analyser = load_face_analyser(face_analyser, providers, detection_threshold, detection_size)
        parser = face_parser and load_face_parser(face_parser, self._execution_device)
        self.face_parser = parser  # type: ignore[assignment]
        self._warn_of_other_recognizer()

    def embed_faces(self, image: PipelineImageInput, face_index: int | None = None) -> torch.Tensor:
        r"""
        Embed the face in each image.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of these):
                One or more images, as for [`__call__`].
            face_index (`int`, *optional*):
                Index of the face, 0 being the largest. By default there must be exactly one.

        Returns:
            `torch.Tensor`: (B, 512) float32 embeddings of unit norm.

        Raises:
            ValueError: if an image shows no face, or several and none was chosen.
        """
        if self.face_analyser is None:
            raise RuntimeError("No face models are loaded. Call `pipe.load_face_models()` first.")
        embeds = [
            choose_face(detect_faces(self.face_analyser, pixels), face_index).embedding
            for pixels in to_uint8(self.prepare_image(image))
        ]
        return torch.from_numpy(np.stack(embeds))

    def save_pretrained(self, save_directory: str | Path, **kwargs):
        r"""
        Save the pipeline's components; see [`DiffusionPipeline.save_pretrained`].

        Raises:
            RuntimeError: while the UNet has an adapter. It would be written with the adapters'
                parameter names, and reloading it would replace attention weights by random ones.
        """
        if getattr(self.unet, "encoder_hid_proj", None) is not None or getattr(self.unet, "peft_config", {}):
            raise RuntimeError(
                "The UNet cannot be saved while adapters are loaded. Call `pipe.unload_face_adapter()` (and "
                "`pipe.unload_lora_weights()` if you loaded other LoRAs) first; the adapter has its own file."
            )
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]

    def _warn_of_other_recognizer(self):
        published = self._face_adapter_weights.startswith("ip-adapter-faceid")
        recognizer = recognizer_name(self.face_analyser)
        if published and recognizer and recognizer != FACEID_RECOGNIZER:
            logging.get_logger(__name__).warning(
                f"The FaceID adapter was trained on the embeddings of {FACEID_RECOGNIZER} (InsightFace's buffalo_l); "
                f"those of {recognizer} lie in another space, and the result may still resemble the person."
            )


def check_face_adapter(unet: UNet2DConditionModel) -> None:
    """Raise unless exactly one complete and active FaceID adapter is loaded.

    Raises:
        RuntimeError: with the remedy, if the adapter is missing, of another kind, or one of its
            halves is off.
    """
    projection = getattr(unet, "encoder_hid_proj", None)
    if not isinstance(projection, MultiIPAdapterImageProjection):
        raise RuntimeError("No FaceID adapter is loaded. Call `pipe.load_face_adapter()` first.")
    layers = projection.image_projection_layers
    if len(layers) != 1 or not isinstance(layers[0], IPAdapterFaceIDImageProjection):
        raise RuntimeError(
            "The loaded IP-Adapter is not a single FaceID adapter. Call `pipe.unload_ip_adapter()` and then "
            "`pipe.load_face_adapter()`."
        )
    if not any(isinstance(processor, IP_ADAPTER_PROCESSORS) for processor in unet.attn_processors.values()):
        raise RuntimeError(
            "The UNet's attention processors were replaced after the FaceID adapter was loaded, which removed it. "
            "Call `pipe.load_face_adapter()` again, and do not use fused projections or attention slicing."
        )
    if not hasattr(projection, "has_lora_half"):
        raise RuntimeError(
            "The FaceID adapter was not loaded completely. Call `pipe.load_face_adapter()`, which loads both its "
            "halves or none."
        )
    if projection.has_lora_half and not has_face_lora(unet):
        raise RuntimeError(
            "The LoRA half of the FaceID adapter was unloaded. Call `pipe.load_face_adapter()` again; to remove only "
            "your own LoRAs, call `pipe.delete_adapters(...)` with their names."
        )
    if has_face_lora(unet) and FACE_LORA_NAME not in active_loras(unet):
        raise RuntimeError(
            f"The LoRA half of the FaceID adapter is not active. Name it beside your own adapters: "
            f"`pipe.set_adapters([..., {FACE_LORA_NAME!r}])`."
        )


def check_kind_of_adapter(unet: UNet2DConditionModel, published: str) -> None:
    """Raise ValueError unless the loaded adapter makes four tokens of one identity embedding.

    Args:
        published (`str`): name of the weight file to use instead.
    """
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    if isinstance(projection, IPAdapterFaceIDPlusImageProjection):
        kind = "a FaceID Plus adapter, which also needs a CLIP embedding of the face"
    elif not isinstance(projection, IPAdapterFaceIDImageProjection):
        kind = "not a FaceID adapter"
    elif projection.num_tokens != FACEID_TOKENS:
        kind = "a FaceID Portrait adapter, which needs several images of a person"
    else:
        return
    raise ValueError(f"This is {kind}. Load plain FaceID: {published} of {FACEID_REPOSITORY}.")


def has_face_lora(unet: UNet2DConditionModel) -> bool:
    """Whether the LoRA half of a FaceID adapter is attached to the UNet, active or not."""
    return FACE_LORA_NAME in getattr(unet, "peft_config", {})


def is_fused(model: torch.nn.Module) -> bool:
    """Whether LoRA adapters are merged into a model's weights."""
    return any(layer.merged for layer in _lora_layers(model))


def active_loras(model: torch.nn.Module) -> list[str]:
    """Names of the active LoRA adapters of a model."""
    for layer in _lora_layers(model):
        return [] if layer.disable_adapters else list(layer.active_adapters)
    return []


def activate_loras(model: torch.nn.Module, names: list[str]) -> None:
    """Activate exactly these LoRA adapters; unlike `set_adapters`, their weights are unchanged."""
    for layer in _lora_layers(model):
        layer.set_adapter(names)


def embedding_size(unet: UNet2DConditionModel) -> int:
    """Length of the identity embeddings that the loaded adapter takes: 512 for ArcFace."""
    return unet.encoder_hid_proj.image_projection_layers[0].ff.net[0].proj.in_features


def identity_conditions(unet: UNet2DConditionModel, identity_embeds: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """The UNet's `added_cond_kwargs` for one identity a sample.

    diffusers repeats the embeddings by the whole batch, and its attention takes the surplus as
    further tokens of the same sample: identities mix without an error (huggingface/diffusers issue
    9813). Here row i of the UNet's batch gets row i of `identity_embeds` only.

    Args:
        identity_embeds (`torch.Tensor`): (N, D), with N the batch size of the UNet call.
    """
    return {"image_embeds": [identity_embeds[:, None].to(unet.dtype)]}  # (N, 1, D): one face for each sample


@contextmanager
def adapter_scale(unet: UNet2DConditionModel, scale: float) -> Iterator[None]:
    """Set the scale of the identity tokens inside the block; restore the previous one after it."""
    processors = [p for p in unet.attn_processors.values() if isinstance(p, IP_ADAPTER_PROCESSORS)]
    scales = [processor.scale for processor in processors]
    for processor in processors:
        processor.scale = [scale] * len(processor.scale)
    try:
        yield
    finally:
        for processor, previous in zip(processors, scales):
            processor.scale = previous


def _lora_layers(model: torch.nn.Module) -> list[Any]:
    # Layers of peft, which is an optional package.
    return [module for module in model.modules() if hasattr(module, "base_layer") and hasattr(module, "set_adapter")]
