import shutil

import numpy as np
import onnx
import pytest
import torch

from nullface_pipeline.face_identity import (
    DEFAULT_SAME_PERSON_SIMILARITY,
    DetectedFace,
    choose_face,
    load_face_analyser,
    opposite_identity,
    same_person_similarity,
    similarity,
)
from nullface_pipeline.tiny_model import TINY_FOLDER

from .tiny_parts import generators, make_embeds


def make_face(size: float) -> DetectedFace:
    box = np.array([10, 10, 10 + size, 10 + size], dtype=np.float32)
    return DetectedFace(box, np.zeros((5, 2), dtype=np.float32), 0.9, np.zeros(512, dtype=np.float32))


@pytest.mark.parametrize("scale", [1.0, 0.33, 0.0, -1.0])
def test_the_opposite_identity(scale):
    embeds = make_embeds(3)
    torch.testing.assert_close(opposite_identity(embeds, scale), -scale * embeds)
    torch.testing.assert_close(opposite_identity(7.0 * embeds, scale), -scale * embeds)


def test_no_identity_stays_none():
    assert not opposite_identity(torch.zeros(1, 512)).any()


@pytest.mark.parametrize("angle", [10.0, 60.0, 180.0])
def test_turned_identities(angle):
    embeds = make_embeds(1).expand(400, -1)
    turned = opposite_identity(embeds, 0.5, angle, torch.Generator().manual_seed(0))
    torch.testing.assert_close(turned.norm(dim=-1), torch.full((400,), 0.5))
    degrees = torch.rad2deg(torch.arccos((-2 * turned * embeds).sum(dim=-1).clamp(-1, 1)))
    assert degrees.max() <= angle + 0.1
    assert degrees.mean() == pytest.approx(angle / 2, rel=0.15), "uniform in [0, angle]"


def test_turns_are_seeded_and_differ():
    embeds = make_embeds(1).expand(2, -1)
    first = opposite_identity(embeds, 1.0, 90.0, generators(2))
    again = opposite_identity(embeds, 1.0, 90.0, generators(2))
    assert torch.equal(first, again)
    assert (first[0] - first[1]).norm() > 0.1
    alone = opposite_identity(embeds[:1], 1.0, 90.0, generators(1))
    torch.testing.assert_close(alone, first[:1])


def test_choosing_a_face():
    faces = [make_face(80), make_face(40)]
    assert choose_face(faces[:1], None) is faces[0]
    assert choose_face(faces, 0) is faces[0]
    assert choose_face(faces, 1) is faces[1]
    with pytest.raises(ValueError):
        choose_face([], None)
    with pytest.raises(ValueError, match="face_index"):
        choose_face(faces, None)
    with pytest.raises(ValueError, match="face_index"):
        choose_face(faces, 2)


def test_similarity():
    a, b = np.array([1.0, 0.0]), np.array([0.0, 2.0])
    assert similarity(a, 3 * a) == pytest.approx(1.0)
    assert similarity(a, b) == pytest.approx(0.0)
    assert similarity(a, -a) == pytest.approx(-1.0)
    assert similarity(a, 0 * a) == 0.0


def test_ready_analysers_pass_through():
    analyser = object()
    assert load_face_analyser(analyser) is analyser


def test_a_folder_without_models(tmp_path):
    with pytest.raises(RuntimeError, match=tmp_path.name):
        load_face_analyser(tmp_path)


@pytest.mark.parametrize("marked", [True, False])
def test_threshold_comes_with_the_recognizer_not_with_its_file_name(tmp_path, marked):
    source = TINY_FOLDER / "face_models"
    shutil.copy(source / "detector.onnx", tmp_path)
    model = onnx.load(source / "recognizer.onnx")
    if not marked:
        del model.metadata_props[:]
    onnx.save(model, tmp_path / ("another.onnx" if marked else "recognizer.onnx"))
    expected = 0.39 if marked else DEFAULT_SAME_PERSON_SIMILARITY
    assert same_person_similarity(load_face_analyser(tmp_path)) == expected


def test_threads_of_the_face_models_sleep_while_they_wait(pipe):
    for model in pipe.face_analyser.models.values():
        options = model.session.get_session_options()
        assert options.intra_op_num_threads == torch.get_num_threads() == 1
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
