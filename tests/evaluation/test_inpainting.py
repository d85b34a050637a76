"""Table 2's baseline with tiny random parts: a UNet of nine channels, and nullface-tiny's, which
blends.
"""

from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from nullface_pipeline.evaluation.inpainting import FaceInpaintPipeline, is_blending, load_inpainter

from ..tiny_parts import make_adapter, make_components, make_embeds, make_images, make_pipeline, make_unet


STEPS = 4


def pictures(count: int) -> list[PIL.Image.Image]:
    pixels = (255 * make_images(count)).byte().permute(0, 2, 3, 1).numpy()
    return [PIL.Image.fromarray(image) for image in pixels]


def left_half(count: int) -> list[PIL.Image.Image]:
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[:, :16] = 255
    return [PIL.Image.fromarray(mask)] * count


def seeds(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + index) for index in range(count)]


@pytest.fixture(scope="module")
def inpainter() -> Any:
    unet = make_unet(in_channels=9)
    pipe = FaceInpaintPipeline(
        **{**make_components(), "unet": unet},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.load_face_adapter(make_adapter(unet))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def inpaint(pipe: Any, embeds: torch.Tensor, count: int = 2, first: int = 0, **options: Any) -> list[np.ndarray]:
    images = pipe.inpaint(
        pictures(first + count)[first:],
        left_half(count),
        embeds,
        num_inference_steps=STEPS,
        generator=seeds(count, first),
        **options,
    )
    return [np.asarray(image).astype(int) for image in images]


def test_each_face_has_an_identity_of_its_own(inpainter):
    """In a batch, a face comes out as it does alone: no identity leaks into another sample."""
    embeds = make_embeds(2)
    together, alone = inpaint(inpainter, embeds), inpaint(inpainter, embeds[1:], count=1, first=1)
    assert np.abs(together[1] - alone[0]).max() <= 1


def test_the_identity_acts(inpainter):
    first, second = inpaint(inpainter, make_embeds(1), count=1), inpaint(inpainter, make_embeds(1, seed=5), count=1)
    assert np.abs(first[0] - second[0]).max() > 2


def test_the_unet_is_told_the_negated_embedding_and_nobody(inpainter, monkeypatch):
    seen = []
    forward = inpainter.unet.forward

    def watched(*args, **kwargs):
        seen.append((args[0].shape, kwargs["added_cond_kwargs"]["image_embeds"][0]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(inpainter.unet, "forward", watched)
    embeds = make_embeds(2)
    inpaint(inpainter, embeds)
    shape, identities = seen[0]
    assert len(seen) >= STEPS and shape == (4, 9, 16, 16)
    assert identities[:2].abs().max() == 0
    assert torch.allclose(identities[2:, 0], -embeds, atol=1e-6)


def test_without_an_adapter_it_says_so():
    pipe = make_pipeline()
    inpainter = load_inpainter(pipe, None)
    pipe.unload_face_adapter()
    with pytest.raises(RuntimeError, match="load_face_adapter"):
        inpaint(inpainter, make_embeds(1), count=1)


def test_a_unet_of_four_channels_blends():
    inpainter = load_inpainter(make_pipeline(), None)
    assert is_blending(inpainter)
    assert len(inpaint(inpainter, make_embeds(2))) == 2


def test_nine_channels_are_loaded_from_a_folder(inpainter, tmp_path, monkeypatch):
    make_unet(in_channels=9).save_pretrained(tmp_path / "unet")
    adapter = make_adapter(inpainter.unet)
    monkeypatch.setattr("nullface_pipeline.evaluation.inpainting.FACEID_REPOSITORY", adapter)
    loaded = load_inpainter(make_pipeline(), tmp_path)
    assert not is_blending(loaded)
    assert all(
        np.array_equal(*pair) for pair in zip(inpaint(loaded, make_embeds(2)), inpaint(inpainter, make_embeds(2)))
    )
