"""diffusers' own pipeline tests, run on this pipeline from a checkout of diffusers' source.

The wheel does not hold these tests, and none of their code is copied here. To run them:

    git clone --depth 1 --branch v0.40.0 https://github.com/huggingface/diffusers /tmp/diffusers
    NULLFACE_DIFFUSERS_SOURCE=/tmp/diffusers python -m pytest tests/test_diffusers_mixins.py

v0.40.0 is the pinned tag. Only its tests are used; the installed diffusers is under test.
`DIFFUSERS_TEST_DEVICE` chooses the device, by default a GPU where there is one; the tests of
offloading skip themselves on a CPU.

Not used, because they ask for what the pipeline deliberately has not got:
- `IPAdapterTesterMixin`: it passes `ip_adapter_image_embeds` and `cross_attention_kwargs`, and also
  calls without an adapter. Here one FaceID adapter is mandatory and its input is `identity_embeds`.
- The cache mixins: they need a denoiser that is a `CacheMixin`. `UNet2DConditionModel` is not.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from nullface_pipeline import StableDiffusionNullFacePipeline, StableDiffusionXLNullFacePipeline

from .tiny_parts import (
    EMBEDDING_SIZE,
    IMAGE_SIZE,
    make_adapter,
    make_components,
    make_images,
    make_mask,
    make_xl_components,
)


SOURCE = os.environ.get("NULLFACE_DIFFUSERS_SOURCE")
if not SOURCE:
    pytest.skip("NULLFACE_DIFFUSERS_SOURCE does not name a checkout of diffusers", allow_module_level=True)


def import_mixins(checkout: str) -> Any:
    """Import the checkout's `tests` under another name, since `tests` is this project's package."""
    name, folder = "diffusers_tests", Path(checkout) / "tests"
    pytest.register_assert_rewrite(name)
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])

    # `is_lora`, `is_memory` and the like set markers that diffusers' conftest registers; ours is
    # strict about them.
    utilities = importlib.import_module(f"{name}.testing_utils")
    for key, value in list(vars(utilities).items()):
        if key.startswith("is_") and getattr(value, "__module__", None) == utilities.__name__:
            setattr(utilities, key, lambda test_case: test_case)
    return importlib.import_module(f"{name}.pipelines.testing_utils")


mixins = import_mixins(SOURCE)


class WholeImageAnalyser:
    """Works like InsightFace's `FaceAnalysis`: takes the image as it is for its only face.

    Its embedding is a random projection of the image.
    """

    def __init__(self) -> None:
        self.det_model = self
        self.models = {"detection": self, "recognition": self}

    def detect(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = image.shape[:2]
        return np.array([[0.0, 0.0, width, height, 1.0]]), np.array([[[0.0, 0.0], [width, height]] + 3 * [[0.0, 0.0]]])

    def get(self, image: np.ndarray, face: Any) -> None:
        projection = np.random.default_rng(0).standard_normal((image.size, EMBEDDING_SIZE), dtype=np.float32)
        face.embedding = (image.astype(np.float32).ravel() / 255 - 0.5) @ projection


class Ready:
    """A pipeline with face adapter and models loaded, which are not part of what is saved.

    diffusers' tests construct, save, load and call with no step between. The mixins batch arguments
    by putting them into lists; this suits images, so the identities are computed from them rather
    than passed.
    """

    lora_half = True

    def load_all(self) -> Any:
        adapter = make_adapter(self.unet)
        if not self.lora_half:
            adapter["ip_adapter"] = {k: v for k, v in adapter["ip_adapter"].items() if "_lora" not in k}
        self.load_face_adapter(adapter)
        self.load_face_models(WholeImageAnalyser(), face_parser=None)
        return self

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        return super().from_pretrained(*args, **kwargs).load_all()

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        self.unload_face_adapter()
        super().save_pretrained(*args, **kwargs)
        self.load_all()


class ReadyPipeline(Ready, StableDiffusionNullFacePipeline):
    pass


class ReadyXLPipeline(Ready, StableDiffusionXLNullFacePipeline):
    pass


class NullFaceTesterConfig(mixins.BasePipelineTesterConfig):
    pipeline_class = ReadyPipeline
    required_input_params_in_call_signature = frozenset(["image", "mask_image", "guidance_scale"])
    batch_input_params = frozenset(["image", "mask_image"])
    # The latents are the image's own, and the same image with other noise is another image in the
    # batch.
    optional_input_params = mixins.BasePipelineTesterConfig.optional_input_params - {
        "latents",
        "num_images_per_prompt",
    }
    output_shape = (3, IMAGE_SIZE, IMAGE_SIZE)

    def get_dummy_components(self) -> dict[str, Any]:
        return make_components()

    def get_dummy_inputs(self) -> dict[str, Any]:
        image = (255 * make_images(1)[0].permute(1, 2, 0)).byte().numpy()
        mask = (255 * make_mask()[0, 0]).byte().numpy()
        return {
            "image": PIL.Image.fromarray(image),
            "mask_image": PIL.Image.fromarray(mask),
            "num_inference_steps": 10,
            "generator": self.get_generator(0),
            "output_type": "pt",
        }

    def get_pipeline(self, **components: Any) -> Any:
        return super().get_pipeline(**components).load_all()


class XLTesterConfig(NullFaceTesterConfig):
    pipeline_class = ReadyXLPipeline

    def get_dummy_components(self) -> dict[str, Any]:
        return make_xl_components()


class TestNullFacePipeline(NullFaceTesterConfig, mixins.PipelineTesterMixin):
    """Skips itself: `test_encode_prompt_works_in_isolation` (the prompt is always empty),
    `test_save_load_optional_components` and `test_num_images_per_prompt` (there are none)."""


class TestXLNullFacePipeline(XLTesterConfig, mixins.PipelineTesterMixin):
    pass


class TestXLNullFacePipelineMemory(XLTesterConfig, mixins.MemoryTesterMixin):
    pass


class TestNullFacePipelineMemory(NullFaceTesterConfig, mixins.MemoryTesterMixin):
    pass


class ReadyPipelineWithoutLoraHalf(ReadyPipeline):
    """The LoRA mixins unload and switch every LoRA, which the pipeline would rightly refuse for
    FaceID's own.
    """

    lora_half = False


class ReadyXLPipelineWithoutLoraHalf(ReadyXLPipeline):
    lora_half = False


class LoraTesterConfig(NullFaceTesterConfig):
    pipeline_class = ReadyPipelineWithoutLoraHalf


class XLLoraTesterConfig(XLTesterConfig):
    pipeline_class = ReadyXLPipelineWithoutLoraHalf


class LoraTests(mixins.LoraTesterMixin):
    # These scale a LoRA for one call by `cross_attention_kwargs`, an argument that the pipeline has
    # not got.
    test_simple_inference_with_text_lora_and_scale = None
    test_simple_inference_with_text_denoiser_lora_and_scale = None
    test_lora_scale_kwargs_match_fusion = None
    test_set_adapters_match_attention_kwargs = None


class TestNullFacePipelineLora(LoraTesterConfig, LoraTests):
    pass


class TestXLNullFacePipelineLora(XLLoraTesterConfig, LoraTests):
    pass


class TestXLNullFacePipelineUNetLora(XLLoraTesterConfig, mixins.UNetLoraTesterMixin):
    pass


class TestXLNullFacePipelineLoraMemory(XLLoraTesterConfig, mixins.LoraMemoryTesterMixin):
    pass


class TestNullFacePipelineUNetLora(LoraTesterConfig, mixins.UNetLoraTesterMixin):
    pass


class TestNullFacePipelineLoraMemory(LoraTesterConfig, mixins.LoraMemoryTesterMixin):
    pass
