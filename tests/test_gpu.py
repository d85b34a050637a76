"""What only a CUDA device can show: half precision at speed, offloading, and that nothing stays
behind on the device.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from .tiny_parts import generators, make_embeds, make_images, make_mask, make_pipeline, make_xl_pipeline


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """TF32 convolutions round to ten bits, which a guidance scale of 10 makes visible."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


def run(pipe: Any) -> torch.Tensor:
    return pipe(
        make_images(2),
        identity_embeds=make_embeds(2),
        mask_image=make_mask(),
        num_inference_steps=20,
        generator=generators(2),
        output_type="pt",
    ).images.cpu()


def test_cuda_equals_cpu():
    expected = run(make_pipeline())
    torch.testing.assert_close(run(make_pipeline().to("cuda")), expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("make", [make_pipeline, make_xl_pipeline])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(make, dtype):
    images = run(make().to("cuda", dtype))
    assert torch.isfinite(images).all()
    assert (images - run(make())).abs().mean() < 0.05


@pytest.mark.parametrize("make", [make_pipeline, make_xl_pipeline])
@pytest.mark.parametrize("method", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offload_twice(make, method):
    pipe = make()
    expected = run(pipe)
    getattr(pipe, method)()
    for _ in range(2):
        torch.testing.assert_close(run(pipe), expected, atol=5e-3, rtol=0)
    assert pipe.unet.device.type != "cuda", "the UNet must not stay on the device"


def test_an_inversion_works_under_offload():
    pipe = make_pipeline()
    pipe.enable_model_cpu_offload()
    inversion = pipe.invert(make_images(2), num_inference_steps=20, generator=generators(2))
    first, second = (
        pipe(make_images(2), make_embeds(2), inversion=inversion, output_type="pt").images for _ in range(2)
    )
    assert torch.equal(first, second)


def test_compiled_unet():
    pipe = make_pipeline().to("cuda")
    expected = run(pipe)
    pipe.unet = torch.compile(pipe.unet, fullgraph=True)
    torch.testing.assert_close(run(pipe), expected, atol=5e-3, rtol=0)
