"""Attributes of faces: that each measure sees what it is named after, and says what it needs where
it is not there.
"""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from skimage import data

from nullface_pipeline.evaluation.attributes import (
    Expression3DMM,
    ExpressionLandmarks,
    EyeOpening,
    Gaze,
    HeadPose,
    Landmarks,
    MouthOpening,
    expected_degrees,
    face_box,
    face_square,
)
from nullface_pipeline.evaluation.recognizers import MissingModelError


POSE_NETWORK = Path(__file__).parents[3] / "shared/models/head_pose_66.onnx"

# Of scikit-image's astronaut.
FIVE = np.array([[204.2, 101.7], [245.6, 104.5], [222.5, 124.9], [200.7, 140.6], [239.4, 143.8]])


def write_network(path: Path, size: int, outputs: dict[str, np.ndarray]) -> Path:
    """A network that returns constants, whatever the picture."""
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, size, size])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(v.shape)) for name, v in outputs.items()]
    constants = [helper.make_tensor(f"{n}_", TensorProto.FLOAT, v.shape, v.ravel()) for n, v in outputs.items()]
    nodes = [helper.make_node("Identity", [f"{name}_"], [name]) for name in outputs]
    graph = helper.make_graph(nodes, "constants", [picture], infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def one_hot(size: int, place: int) -> np.ndarray:
    logits = np.full((1, size), -50.0, dtype=np.float32)
    logits[0, place] = 50.0
    return logits


@pytest.mark.parametrize("measure", [HeadPose, Gaze, Expression3DMM])
@pytest.mark.parametrize("path", [None, "not/there.onnx"])
def test_a_measure_without_its_network_says_what_it_needs(measure, path):
    with pytest.raises(MissingModelError, match="onnx"):
        measure(path)


def test_degrees_are_the_mean_over_bins():
    assert expected_degrees(one_hot(66, 33)[0], 3.0, -99.0) == pytest.approx(0.0)
    assert expected_degrees(np.zeros(66), 3.0, -99.0) == pytest.approx(-1.5)


def test_the_box_is_upright_around_the_features():
    x0, y0, x1, y1 = face_box(FIVE)
    assert x1 - x0 == pytest.approx(y1 - y0)
    assert x0 < FIVE[:, 0].min() and FIVE[:, 0].max() < x1
    assert y0 < FIVE[:, 1].min() and FIVE[:, 1].max() < y1
    assert face_square(data.astronaut(), FIVE, 64, widening=0.25).shape == (64, 64, 3)


def test_gaze_is_in_radians(tmp_path):
    path = write_network(tmp_path / "gaze.onnx", 448, {"yaw": one_hot(90, 50), "pitch": one_hot(90, 45)})
    gaze = Gaze(path)(data.astronaut(), FIVE)
    assert gaze == pytest.approx(np.radians([20.0, 0.0]))
    assert Gaze(path).distance(gaze, gaze + 0.2) == pytest.approx(0.2)


def test_expression_takes_64_of_257_coefficients(tmp_path):
    coefficients = np.arange(257, dtype=np.float32)[None]
    measure = Expression3DMM(write_network(tmp_path / "3dmm.onnx", 224, {"coefficients": coefficients}))
    found = measure(data.astronaut(), FIVE)
    assert found.tolist() == list(range(80, 144))
    assert measure.distance(found, found + 1.0) == pytest.approx(8.0)


def test_fingerprints_tell_networks_apart(tmp_path):
    first = Gaze(write_network(tmp_path / "a.onnx", 448, {"yaw": one_hot(90, 1), "pitch": one_hot(90, 1)}))
    second = Gaze(write_network(tmp_path / "b.onnx", 448, {"yaw": one_hot(90, 2), "pitch": one_hot(90, 1)}))
    assert first.fingerprint != second.fingerprint


@pytest.mark.skipif(not POSE_NETWORK.is_file(), reason="needs shared/models/head_pose_66.onnx")
def test_head_pose_turns_with_the_picture():
    """A picture turned by 20 degrees shows a face of 20 degrees more roll."""
    pose, photo = HeadPose(POSE_NETWORK), data.astronaut()
    turn = cv2.getRotationMatrix2D(FIVE.mean(axis=0).tolist(), 20.0, 1.0)
    before = pose(photo, FIVE)
    after = pose(cv2.warpAffine(photo, turn, (512, 512)), FIVE @ turn[:, :2].T + turn[:, 2])
    assert abs(after[2] - before[2]) == pytest.approx(20.0, abs=6.0)
    assert after[1] == pytest.approx(before[1], abs=6.0)
    assert pose.distance(before, before + [3.0, 0.0, 0.0]) == pytest.approx(1.0)


class TestLandmarks:
    @pytest.fixture(autouse=True)
    def needs_dlib(self) -> None:
        pytest.importorskip("dlib")

    def test_points_lie_where_the_five_are(self):
        points = Landmarks()(data.astronaut(), FIVE)
        eyes = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
        assert np.abs(np.stack([*eyes, points[30]]) - FIVE[:3]).max() < 8

    def test_distance_is_in_eye_distances(self):
        measure = Landmarks()
        points = measure(data.astronaut(), FIVE)
        eyes = np.linalg.norm(points[36:42].mean(axis=0) - points[42:48].mean(axis=0))
        assert measure.distance(points, points) == 0
        assert measure.distance(points, points + [0.1 * eyes, 0.0]) == pytest.approx(10.0)

    def test_expression_does_not_see_a_face_moved_as_a_whole(self):
        measure = ExpressionLandmarks()
        points = measure(data.astronaut(), FIVE)
        assert measure.distance(points, 1.1 * points + 5.0) == pytest.approx(0.0, abs=1e-6)
        open_mouth = points.copy()
        open_mouth[57:68, 1] += 6.0
        assert measure.distance(points, open_mouth) > 2.0

    def test_openings_are_shares_of_widths(self):
        """The astronaut laughs with open eyes; a picture without a face shows something else, or
        nothing changes.
        """
        photo = data.astronaut()
        mouth, eyes = MouthOpening()(photo, FIVE), EyeOpening()(photo, FIVE)
        assert 0.05 < mouth[0] < 0.6 and 0.1 < eyes[0] < 0.6
        assert EyeOpening().distance(eyes, eyes + 0.1) == pytest.approx(0.1)
