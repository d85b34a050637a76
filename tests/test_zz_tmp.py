"""diffusers' own pipeline tests, run on this pipeline from a checkout of diffusers' source.

The wheel does not hold these tests, and none of their code is copied here. To run them, with no network after the clone:

    git clone --depth 1 --branch v0.40.0 https://github.com/huggingface/diffusers /tmp/diffusers
    NULLFACE_DIFFUSERS_SOURCE=/tmp/diffusers python -m pytest tests/test_diffusers_mixins.py

v0.40.0 is the pinned tag, the newest at which the tests were run; the diffusers under test is the installed one. They
run on a GPU where there is one, else `DIFFUSERS_TEST_DEVICE` names the device; the tests of offloading skip on a CPU.

Left out, because they test what the pipeline has not got on purpose:
- `IPAdapterTesterMixin` calls with `ip_adapter_image`, `ip_adapter_image_embeds` and `cross_attention_kwargs`, and
  without an adapter. Here one FaceID adapter is mandatory, and its input is `identity_embeds`.
- The cache mixins need a denoiser that is a `CacheMixin`; `UNet2DConditionModel` is none.
- `test_encode_prompt_works_in_isolation` skips itself: the pipeline takes no prompt.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from nullface_pipeline import StableDiffusionNullFacePipeline

from .tiny_parts import EMBEDDING_SIZE, IMAGE_SIZE, make_adapter, make_components, make_images, make_mask


SOURCE = os.environ.get("NULLFACE_DIFFUSERS_SOURCE")
if not SOURCE:
    pytest.skip("NULLFACE_DIFFUSERS_SOURCE does not name a checkout of diffusers", allow_module_level=True)


def import_diffusers_tests(checkout):
    """Import the checkout's `tests` under a name of its own, since `tests` is this project's package."""
    name, folder = "diffusers_tests", Path(checkout) / "tests"
    pytest.register_assert_rewrite(name)
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])

    # `is_lora`, `is_memory` ... set markers that diffusers' conftest registers and ours, being strict, rejects.
    utilities = importlib.import_module(f"{name}.testing_utils")
    for key, value in list(vars(utilities).items()):
        if key.startswith("is_") and getattr(value, "__module__", None) == utilities.__name__:
            setattr(utilities, key, lambda test_case: test_case)
    return importlib.import_module(f"{name}.pipelines.testing_utils")


mixins = import_diffusers_tests(SOURCE)


class WholeImageAnalyser:
    """Used like InsightFace's `FaceAnalysis`: takes the image for one face and projects its pixels at random."""

    def get(self, image):
        projection = np.random.default_rng(0).standard_normal((image.size, EMBEDDING_SIZE), dtype=np.float32)
        embedding = (image.astype(np.float32).ravel() / 255 - 0.5) @ projection
        face = type("Face", (), {})()
        face.bbox, face.det_score = np.array([0, 0, *image.shape[1::-1]]), 1.0
        face.kps, face.normed_embedding = np.zeros((5, 2)), embedding / np.linalg.norm(embedding)
        return [face]


class ReadyPipeline(StableDiffusionNullFacePipeline):
    """The pipeline with its face adapter and models loaded, also after `from_pretrained`.

    diffusers' tests save, load and call with no step between, but these are loaded separately and never saved.
    """

    lora_half = True

    def load_all(self):
        adapter = make_adapter(self.unet)
        if not self.lora_half:
            adapter["ip_adapter"] = {k: v for k, v in adapter["ip_adapter"].items() if "_lora" not in k}
        self.load_face_adapter(adapter)
        self.load_face_models(WholeImageAnalyser(), face_parser=None)
        return self

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        return super().from_pretrained(*args, **kwargs).load_all()

    def save_pretrained(self, *args, **kwargs):
        self.unload_face_adapter()
        super().save_pretrained(*args, **kwargs)
        self.load_all()


class NullFaceTesterConfig(mixins.BasePipelineTesterConfig):
    pipeline_class = ReadyPipeline
    required_input_params_in_call_signature = frozenset(["image", "mask_image", "guidance_scale"])
    batch_input_params = frozenset(["image", "mask_image"])
    # An inversion starts from the image's own latents, and an image has one result.
    optional_input_params = mixins.BasePipelineTesterConfig.optional_input_params - {"latents", "num_images_per_prompt"}
    output_shape = (3, IMAGE_SIZE, IMAGE_SIZE)

    def get_dummy_components(self):
        return make_components()

    def get_dummy_inputs(self):
        pixels = (255 * make_images(1)[0].permute(1, 2, 0)).byte().numpy()
        return {
            "image": PIL.Image.fromarray(pixels),
            "mask_image": PIL.Image.fromarray((255 * make_mask()[0, 0]).byte().numpy()),
            "num_inference_steps": 10,
            "generator": self.get_generator(0),
            "output_type": "pt",
        }

    def get_pipeline(self, **components):
        return super().get_pipeline(**components).load_all()


class TestNullFacePipeline(NullFaceTesterConfig, mixins.PipelineTesterMixin):
    pass


class TestNullFacePipelineMemory(NullFaceTesterConfig, mixins.MemoryTesterMixin):
    pass


class WithoutLoraHalf(ReadyPipeline):
    lora_half = True

class LoraConfig(NullFaceTesterConfig):
    pipeline_class = WithoutLoraHalf

class TestNullFacePipelineLora(LoraConfig, mixins.LoraTesterMixin):
    pass
class TestNullFacePipelineUNetLora(LoraConfig, mixins.UNetLoraTesterMixin):
    pass
class TestNullFacePipelineLoraMemory(LoraConfig, mixins.LoraMemoryTesterMixin):
    pass
