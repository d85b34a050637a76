from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from facexlib.parsing.bisenet import BiSeNet
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from nullface_pipeline import face_parsing
from nullface_pipeline.face_parsing import (
    CELEBAMASK_LABELS,
    FACE_REGIONS,
    REGIONS,
    anonymization_mask,
    fetch_bisenet_weights,
    load_face_parser,
    region_mask,
)


# One label a column, each 4 pixels wide.
LABELS = np.repeat(np.arange(19), 4)[None].repeat(8, axis=0)


def columns(mask: np.ndarray) -> set[str]:
    return {name for index, name in enumerate(CELEBAMASK_LABELS) if mask[:, 4 * index : 4 * index + 4].all()}


def make_image(size: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def bisenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights in facexlib's layout."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bisenet") / "parsing_bisenet.pth"
    torch.save(BiSeNet(num_class=19).state_dict(), path)
    return path


def test_regions_name_known_labels():
    assert len(CELEBAMASK_LABELS) == 19
    assert {name for names in REGIONS.values() for name in names} == set(CELEBAMASK_LABELS)
    assert set(FACE_REGIONS) <= set(REGIONS)


def test_union_of_regions():
    assert columns(region_mask(LABELS, CELEBAMASK_LABELS, ("eyes", "mouth"))) == {
        "l_eye",
        "r_eye",
        "mouth",
        "u_lip",
        "l_lip",
    }
    assert not region_mask(LABELS, CELEBAMASK_LABELS, ()).any()


def test_label_order_is_the_models_own():
    names = CELEBAMASK_LABELS[::-1]
    mask = region_mask(LABELS, names, ("nose",))
    assert mask[:, 4 * names.index("nose")].all() and mask.sum() == 8 * 4


def test_mask_is_the_face_without_what_is_kept():
    change = anonymization_mask(LABELS, CELEBAMASK_LABELS, ("eyes",), softness=0.0) > 0.5
    face = {name for region in FACE_REGIONS for name in REGIONS[region]}
    assert columns(change) == face - {"l_eye", "r_eye"}
    whole = anonymization_mask(LABELS, CELEBAMASK_LABELS, (), softness=0.0) > 0.5
    assert columns(whole) == face, "background, hair and clothes are held"


def test_mask_edge_is_soft():
    labels = np.zeros((100, 100), dtype=np.int64)
    labels[30:70, 30:70] = 1
    mask = anonymization_mask(labels, CELEBAMASK_LABELS, (), softness=0.02)
    assert mask.dtype == np.float32 and 0.0 <= mask.min() and mask.max() <= 1.0
    assert mask[50, 50] > 0.99 and mask[5, 5] < 0.01
    assert ((mask > 0.1) & (mask < 0.9)).sum() > 100


@pytest.mark.parametrize("height", [6, 10, 20])
def test_a_narrow_eye_is_kept_whole(height):
    labels = np.ones((512, 512), dtype=np.int64)
    labels[200 : 200 + height, 100:160] = CELEBAMASK_LABELS.index("l_eye")
    mask = anonymization_mask(labels, CELEBAMASK_LABELS, ("eyes",))
    assert not mask[200 : 200 + height, 100:160].any()
    assert np.abs(np.diff(mask[:, 130])).max() < 0.15, "soft around it"
    assert mask[300, 300] == 1.0


def test_bisenet_from_a_file(bisenet):
    parser = load_face_parser(bisenet)
    labels = parser(make_image())
    assert labels.shape == (96, 96) and labels.dtype == np.int64
    assert parser.labels == CELEBAMASK_LABELS
    with torch.no_grad():
        network = BiSeNet(num_class=19).eval()
        network.load_state_dict(torch.load(bisenet))
        pixels = torch.from_numpy(make_image(512)).permute(2, 0, 1)[None] / 255
        pixels = (pixels - parser.mean) / parser.std
        expected = network(pixels.float())[0].argmax(dim=1)[0].numpy()
    assert (parser(make_image(512)) == expected).all()


def test_bisenet_is_fetched_once_and_checked(bisenet, tmp_path, monkeypatch):
    """The download code itself, from a file instead of the publisher's server."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(face_parsing, "BISENET_URL", bisenet.as_uri())
    with pytest.raises(RuntimeError, match="hash"):
        fetch_bisenet_weights()
    assert not list(tmp_path.rglob("*.pth"))
    monkeypatch.setattr(face_parsing, "BISENET_SHA256", sha256(bisenet.read_bytes()).hexdigest())
    path = fetch_bisenet_weights()
    assert path.read_bytes() == bisenet.read_bytes()
    monkeypatch.setattr(face_parsing, "BISENET_URL", "file:///nowhere")
    assert fetch_bisenet_weights() == path


def test_weights_that_carry_code_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weights": make_image}, path)
    with pytest.raises(Exception, match="weights_only|Weights only"):
        load_face_parser(path)


def make_segformer(folder: Path, labels: Any) -> None:
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def test_any_transformers_model_with_these_labels(tmp_path):
    make_segformer(tmp_path, sorted(CELEBAMASK_LABELS))
    parser = load_face_parser(tmp_path)
    assert parser.labels == tuple(sorted(CELEBAMASK_LABELS)) and parser.size == 64
    labels = parser(make_image())
    assert labels.shape == (96, 96) and 0 <= labels.min() and labels.max() < 19


def test_a_model_of_something_else(tmp_path):
    make_segformer(tmp_path, ["road", "sky"])
    with pytest.raises(ValueError, match="CelebAMask"):
        load_face_parser(tmp_path)
