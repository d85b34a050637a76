"""The promise of whole photos, under attack: no face that was found leaves as
it was.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from nullface_pipeline import (
    FaceNotHiddenError,
    PhotoOptions,
    PhotoRefusedError,
    StableDiffusionNullFacePipeline,
    TooManyFacesError,
)
from nullface_pipeline.face_covers import are_covered, cover_faces
from nullface_pipeline.face_identity import DetectedFace, load_face_analyser
from nullface_pipeline.face_search import MAX_FACES, search_faces
from nullface_pipeline.face_target import FaceTarget, make_target
from nullface_pipeline.photo import (
    FinishedFaces,
    FoundFaces,
    check_finished,
    find_faces,
    read_pixels,
    records,
)
from nullface_pipeline.photo_options import COVERS
from nullface_pipeline.photo_records import FaceToSkipError
from nullface_pipeline.tiny_model import TINY_FOLDER

from .refusals import refused_option


FAST = {"num_inference_steps": 4, "skip": 0.5}
PASSES = {"similarity_threshold": 1.0, "accept_recognizable": True, "identity": "opposite", **FAST}


@pytest.fixture(scope="module")
def astronaut() -> PIL.Image.Image:
    return PIL.Image.fromarray(data.astronaut()[:300, 60:360])


@pytest.fixture(scope="module")
def pixels(astronaut: PIL.Image.Image) -> np.ndarray:
    return np.asarray(astronaut)


@pytest.fixture(scope="module")
def face(pipe: StableDiffusionNullFacePipeline, pixels: np.ndarray) -> DetectedFace:
    (face,) = search_faces(pipe.face_analyser, pixels)
    return face


@pytest.fixture(scope="module")
def target(pipe: StableDiffusionNullFacePipeline, pixels: np.ndarray, face: DetectedFace) -> FaceTarget:
    """The face, replaced by grey."""
    target = make_target(pipe, pixels, face, [face], (), None, 0)
    return replace(target, result=np.full_like(target.aligned, 128), attempts=1, similarity=0.0)


def inside(pixels: np.ndarray, face: DetectedFace) -> np.ndarray:
    x0, y0, x1, y1 = face.box.round().astype(int)
    return pixels[y0:y1, x0:x1]


def kept_around(face: DetectedFace, size: tuple[int, int], half_axes: tuple[float, float]) -> PIL.Image.Image:
    """A mask that keeps an ellipse around the middle of the face."""
    mask, centre = PIL.Image.new("L", size), face.landmarks.mean(axis=0)
    PIL.ImageDraw.Draw(mask).ellipse([*(centre - half_axes), *(centre + half_axes)], fill=255)
    return mask


# --- The invariant
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COVERS)
def test_what_is_hidden_covered_or_spared_is_fine(pixels, face, target, kind):
    check_finished(FoundFaces(pixels, (face,), (), ()), FinishedFaces(target.paste(pixels), (target,), (), ()))
    check_finished(FoundFaces(pixels, (), (), (face,)), FinishedFaces(pixels, (), (), ()))
    covered = cover_faces(pixels, [face.box], kind)
    check_finished(FoundFaces(pixels, (face,), (), ()), FinishedFaces(covered, (), (target,), (), kind))
    found, finished = FoundFaces(pixels, (), (face,), ()), FinishedFaces(covered, (), (), (face,), kind)
    check_finished(found, finished)
    assert [record.method for record in records(found, finished)] == ["covered"]


def test_a_face_that_nobody_accounts_for_is_refused(pixels, face, target):
    for found in (
        FoundFaces(pixels, (face,), (), ()),
        FoundFaces(pixels, (), (face,), ()),
    ):
        with pytest.raises(FaceNotHiddenError):
            check_finished(found, FinishedFaces(pixels, (), (), ()))
    with pytest.raises(FaceNotHiddenError):
        check_finished(
            FoundFaces(pixels, (face,), (), ()), FinishedFaces(target.paste(pixels), (target,), (target,), ())
        )
    other = replace(target, face=replace(face))
    with pytest.raises(FaceNotHiddenError):
        check_finished(FoundFaces(pixels, (face,), (), ()), FinishedFaces(target.paste(pixels), (other,), (), ()))


def test_a_hidden_face_whose_pixels_are_the_same_is_refused(pixels, face, target):
    found = FoundFaces(pixels, (face,), (), ())
    with pytest.raises(FaceNotHiddenError):
        check_finished(found, FinishedFaces(pixels, (target,), (), ()))
    hardly = pixels.copy()
    inside(hardly, face)[:2] ^= 1
    with pytest.raises(FaceNotHiddenError):
        check_finished(found, FinishedFaces(hardly, (target,), (), ()))


def test_a_hidden_face_of_which_only_the_surroundings_changed_is_refused(pixels, face, target):
    """Hair and background make up most of a box."""
    features = np.asarray(kept_around(face, pixels.shape[1::-1], (34, 46))) > 0
    changed = np.where(features[..., None], pixels, target.paste(pixels))
    assert (inside(changed, face) != inside(pixels, face)).any(axis=-1).mean() > 0.3
    with pytest.raises(FaceNotHiddenError):
        check_finished(FoundFaces(pixels, (face,), (), ()), FinishedFaces(changed, (target,), (), ()))


@pytest.mark.parametrize("kind", COVERS)
@pytest.mark.parametrize("strength", [0, 4, 12])
def test_a_covered_face_that_still_shows_is_refused(pixels, face, target, kind, strength):
    """Also one that is blurred, but not enough."""
    shown = cv2.GaussianBlur(pixels, (0, 0), strength) if strength else pixels
    for found, finished in (
        (FoundFaces(pixels, (face,), (), ()), FinishedFaces(shown, (), (target,), (), kind)),
        (FoundFaces(pixels, (), (face,), ()), FinishedFaces(shown, (), (), (face,), kind)),
        (FoundFaces(pixels, (), (), (face,)), FinishedFaces(shown, (), (), (replace(face),), kind)),
    ):
        with pytest.raises(FaceNotHiddenError):
            check_finished(found, finished)


@pytest.mark.parametrize("kind", COVERS)
def test_a_face_is_covered_by_what_was_asked_for(pipe, astronaut, face, kind):
    result = pipe.anonymize(astronaut, cover=kind, min_face=1000, **PASSES)
    assert [record.method for record in result.faces] == ["covered"]
    assert are_covered(np.asarray(result.image), [face.box], kind) == [True]


# --- Ways out that were open
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("min_face", [math.nan, math.inf, -1.0, "large"])
def test_no_size_lets_a_face_through(pipe, astronaut, min_face):
    with refused_option("min_face"):
        pipe.anonymize(astronaut, min_face=min_face, **PASSES)


def test_every_face_has_one_fate(pipe, pixels, face):
    for min_face in (0.0, face.longer_side, face.longer_side + 1e-3, 1e6):
        found = find_faces(pipe, pixels, PhotoOptions(min_face=min_face))
        assert len(found.replace) + len(found.cover) == len(found.all) == 1


def test_a_mask_over_the_face_covers_it_whatever_the_threshold(pipe, astronaut):
    everything = PIL.Image.new("L", astronaut.size, 255)
    result = pipe.anonymize(astronaut, keep_mask=everything, **PASSES)
    assert [(face.method, face.attempts, face.similarity) for face in result.faces] == [("covered", 0, None)]
    almost = everything.copy()
    almost.paste(0, (0, 0, *(int(side * 0.35) for side in astronaut.size)))
    assert [face.method for face in pipe.anonymize(astronaut, keep_mask=almost, **PASSES).faces] == ["covered"]
    with pytest.raises(FaceNotHiddenError):
        pipe.anonymize(astronaut, keep_mask=everything, on_failure="error", **PASSES)


@pytest.mark.parametrize("options", [PASSES, {**FAST, "max_attempts": 3}])
def test_a_mask_over_all_features_covers_the_face(pipe, astronaut, face, options):
    """Cheeks, forehead and ears alone make nobody another person."""
    mask = kept_around(face, astronaut.size, (34, 41))
    (record,) = pipe.anonymize(astronaut, keep_mask=mask, seed=0, **options).faces
    assert (record.method, record.attempts) == ("covered", 0)


def test_a_mask_over_one_feature_does_not_cover_the_face(with_detections, astronaut, face):
    mask = kept_around(face, astronaut.size, (12, 12))
    (record,) = with_detections([face.box]).anonymize(astronaut, keep_mask=mask, seed=0, **PASSES).faces
    assert record.method == "replaced"


@pytest.mark.parametrize("cut", [(150, 0), (165, 0), (0, 100), (165, 100), (190, 0)])
@pytest.mark.parametrize("half_axes", [(300, 300), (46, 52)])
def test_what_may_change_outside_the_photo_does_not_count(pipe, with_detections, astronaut, face, cut, half_axes):
    """The mirror image beyond the border is free to change, and nobody sees it."""
    photo = astronaut.crop((*cut, *astronaut.size))
    shift = np.array(cut, np.float32)
    moved = replace(face, box=face.box - np.tile(shift, 2), landmarks=face.landmarks - shift)
    mask = kept_around(moved, photo.size, half_axes)
    pipe = with_detections([moved.box])
    pipe.face_analyser.det_model.landmarks = moved.landmarks
    (record,) = pipe.anonymize(photo, keep_mask=mask, seed=0, **PASSES).faces
    assert (record.method, record.attempts) == ("covered", 0)


def test_a_result_that_cannot_be_compared_is_covered(pipe, astronaut):
    class Broken:
        """A recognizer whose embeddings are no numbers."""

        class Model:
            def get(self, image, face):
                face["embedding"] = np.full(512, np.nan, dtype=np.float32)

        models = {"recognition": Model()}

    result = pipe.anonymize(astronaut, verifier=Broken(), max_attempts=1, **PASSES)
    assert [face.method for face in result.faces] == ["covered"]


Boxes = Sequence[Sequence[float] | np.ndarray]


class Detector:
    """A detector that returns given boxes in the upright photo: one list for each search.

    Args:
        passes: boxes of the first search, of the second one, and so on; the last list repeats.
        landmarks: of every box.
    """

    det_thresh = 0.3

    def __init__(self, *passes: Boxes, landmarks: np.ndarray):
        self.passes, self.landmarks, self.calls = passes, landmarks, 0

    def detect(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number, turn = divmod(self.calls, 4)
        self.calls += 1
        boxes = self.passes[min(number, len(self.passes) - 1)] if turn == 0 else []
        rows = np.array([[*box, 0.9] for box in boxes], dtype=np.float32).reshape(-1, 5)
        return rows, np.stack([self.landmarks] * len(boxes)) if boxes else np.zeros((0, 5, 2))


@pytest.fixture
def with_detections(
    own_pipe: StableDiffusionNullFacePipeline, face: DetectedFace
) -> Callable[..., StableDiffusionNullFacePipeline]:
    """A pipeline with a `Detector` of these boxes."""

    def replace_detector(*passes: Boxes) -> StableDiffusionNullFacePipeline:
        own_pipe.face_analyser.det_model = Detector(*passes, landmarks=face.landmarks)
        return own_pipe

    return replace_detector


def test_one_known_face_accounts_for_one_that_is_seen_afterwards(with_detections, astronaut, face):
    x0, y0, x1, y1 = face.box.tolist()
    width = x1 - x0
    beside = [x0 + 0.45 * width, y0, x1 + 0.45 * width, y1]
    result = with_detections([face.box], [face.box, beside]).anonymize(astronaut, max_attempts=1, **PASSES)
    assert [record.method for record in result.faces] == ["replaced", "covered"]
    assert result.faces[1].box == pytest.approx(beside, abs=1e-3)
    patch = inside(np.asarray(result.image), replace(face, box=np.array(beside)))
    assert len(np.unique(patch.reshape(-1, 3), axis=0)) == 1


def test_a_spared_face_accounts_for_one_that_is_seen_afterwards(with_detections, astronaut, face):
    beside = face.box + np.array([0.45, 0, 0.45, 0], np.float32) * (face.box[2] - face.box[0])
    result = with_detections([face.box], [face.box, beside]).anonymize(astronaut, skip_faces=[face.box], **PASSES)
    assert sorted(record.method for record in result.faces) == ["covered", "kept"]


@pytest.mark.parametrize("shift", [0.42, 0.49])
def test_a_neighbour_is_not_taken_for_a_face_that_is_seen_no_more(with_detections, astronaut, face, shift):
    beside = face.box + np.array([shift, 0, shift, 0], np.float32) * (face.box[2] - face.box[0])
    result = with_detections([face.box], [beside]).anonymize(astronaut, max_attempts=1, **PASSES)
    assert [record.method for record in result.faces] == ["replaced", "covered"]


@pytest.mark.parametrize("shift", [0.42, 0.49])
def test_a_box_does_not_spare_the_neighbour(with_detections, astronaut, face, shift):
    """Of two people cheek to cheek only one was found, and the other one had agreed."""
    beside = face.box + np.array([shift, 0, shift, 0], np.float32) * (face.box[2] - face.box[0])
    with pytest.raises(FaceToSkipError):
        with_detections([face.box]).anonymize(astronaut, skip_faces=[beside], **PASSES)


def test_a_box_between_two_faces_spares_neither(with_detections, astronaut, face):
    width = face.box[2] - face.box[0]
    left, right = (face.box + np.array([shift, 0, shift, 0], np.float32) * width for shift in (-0.22, 0.22))
    with pytest.raises(FaceToSkipError):
        with_detections([left, right]).anonymize(astronaut, skip_faces=[face.box], **PASSES)


wrong_numbers = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("min_face", [0, 1000])
@pytest.mark.parametrize("searches", [0, 1])
@pytest.mark.parametrize("corners", [(0, 1, 2, 3), (2,)])
@pytest.mark.parametrize("number", wrong_numbers)
def test_a_box_that_is_nowhere_covers_nothing(with_detections, astronaut, face, number, corners, searches, min_face):
    wrong = face.box.copy()
    wrong[list(corners)] = number
    with pytest.raises(FaceNotHiddenError):
        with_detections(*[[face.box]] * searches, [face.box, wrong]).anonymize(astronaut, min_face=min_face, **PASSES)


@pytest.mark.parametrize("corners", [(2, 3, 0, 1), (2, 1, 0, 3), (0, 1, 0, 3), (0, 1, 2, 1)])
def test_a_box_without_area_covers_nothing(with_detections, astronaut, face, corners):
    with pytest.raises(FaceNotHiddenError):
        with_detections([face.box[list(corners)]]).anonymize(astronaut, min_face=1000, **PASSES)


@pytest.mark.parametrize("number", [*wrong_numbers, 1e30, -1e6])
def test_landmarks_that_are_nowhere_are_refused_in_words(with_detections, astronaut, face, number):
    pipe = with_detections([face.box])
    pipe.face_analyser.det_model.landmarks = face.landmarks.copy()
    pipe.face_analyser.det_model.landmarks[0, 0] = number
    with pytest.raises(FaceNotHiddenError):
        pipe.anonymize(astronaut, **PASSES)


def test_boxes_beyond_the_photo_are_covered_as_far_as_they_are_in_it(with_detections, astronaut):
    boxes = [[-40, -40, 20, 20], [280, 280, 400, 400], [-90, -90, -20, -20]]
    result = with_detections(boxes).anonymize(astronaut, min_face=1000, **PASSES)
    assert {record.method for record in result.faces} == {"covered"} and len(result.faces) == 3


def test_more_faces_than_a_photo_holds_are_refused_in_words(with_detections, astronaut):
    boxes = [[x, y, x + 3, y + 3] for x in range(0, 300, 6) for y in range(0, 300, 6)]
    assert len(boxes) > MAX_FACES
    with pytest.raises(TooManyFacesError):
        with_detections(boxes).anonymize(astronaut, **PASSES)


@pytest.mark.parametrize("threshold", [0, -1, 0.01, 1.0, math.nan, math.inf])
def test_a_detection_threshold_that_takes_everything_or_nothing_is_refused(threshold):
    with pytest.raises(ValueError, match="detection_threshold"):
        load_face_analyser(TINY_FOLDER / "face_models", detection_threshold=threshold)


# --- Pictures
# ------------------------------------------------------------------------------------------


def test_grey_of_16_bits_is_seen_as_it_is(pipe, pixels):
    grey = np.asarray(PIL.Image.fromarray(pixels).convert("L"))
    deep = PIL.Image.fromarray(grey.astype(np.uint16) * 257)
    assert deep.mode.startswith("I;16")
    assert np.array_equal(read_pixels(deep)[0][..., 0], grey)
    assert pipe.anonymize(deep, **PASSES).faces[0].method == "replaced"


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pictures_without_an_agreed_white_are_refused(pipe, pixels, mode):
    with pytest.raises(ValueError, match=f"mode {mode} "):
        pipe.anonymize(PIL.Image.fromarray(pixels).convert("L").convert(mode), **PASSES)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "at_the_end"), [((33_000, 300), True), ((300, 33_000), False)])
def test_very_long_pictures(pipe, pixels, size, at_the_end):
    """OpenCV warps nothing longer than 32,766 pixels."""
    photo = PIL.Image.new("RGB", size, (90, 110, 130))
    photo.paste(PIL.Image.fromarray(pixels), (size[0] - 300, size[1] - 300) if at_the_end else (0, 0))
    (record,) = pipe.anonymize(photo, seed=0, **PASSES).faces
    assert record.method == "replaced"
    (record,) = pipe.anonymize(photo, seed=0, min_face=1000, **PASSES).faces
    assert record.method == "covered"


# --- Whatever is given
# ------------------------------------------------------------------------------------------

floats = st.one_of(st.floats(), st.floats(-2, 2), st.sampled_from([math.nan, math.inf, -math.inf, 1e38, -0.0]))
anything = st.one_of(st.none(), st.booleans(), st.integers(-3, 2**70), floats, st.text(max_size=4), st.lists(floats))
wild = st.dictionaries(
    st.sampled_from(
        sorted(set(PhotoOptions.__dataclass_fields__) - {"inversion_batch_size", "max_attempts", "verifier"})
    ),
    anything,
    min_size=1,
    max_size=4,
)
plausible = st.fixed_dictionaries(
    {},
    optional={
        "keep": st.lists(st.sampled_from(["eyes", "mouth", "nose", "brows", "ears", "glasses", "lips", "hair"])),
        "skip_faces": st.lists(st.tuples(*4 * [st.floats(0, 300)]), max_size=2),
        "min_face": st.floats(0, 200),
        "similarity_threshold": st.floats(-1, 1),
        "accept_recognizable": st.booleans(),
        "guidance_scale": st.floats(-100, 100),
        "identity_scale": st.floats(-10, 10),
        "identity_angle": st.floats(0, 180),
        "mask_start": st.floats(0, 1),
        "ip_adapter_scale": st.floats(-10, 10),
        "seed": st.integers(0, 2**63 - 1),
        "identity": st.sampled_from(["random", "opposite", "consistent"]),
        "people": st.integers(0, 3).map(lambda count: np.eye(512, dtype=np.float32)[:count]),
        "on_failure": st.sampled_from(["cover", "error"]),
        "cover": st.sampled_from(COVERS),
        "preset": st.sampled_from(["light", "strong"]),
    },
)


@settings(max_examples=10, deadline=None)
@given(st.one_of(wild, plausible))
def test_never_a_success_with_an_unchanged_face(pipe, astronaut, pixels, face, options):
    check_that_no_face_leaves(pipe, astronaut, pixels, face, options)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.one_of(wild, plausible))
def test_never_a_success_with_an_unchanged_face_for_many_options(pipe, astronaut, pixels, face, options):
    check_that_no_face_leaves(pipe, astronaut, pixels, face, options)


def check_that_no_face_leaves(
    pipe: StableDiffusionNullFacePipeline,
    astronaut: PIL.Image.Image,
    pixels: np.ndarray,
    face: DetectedFace,
    options: dict[str, Any],
) -> None:
    """The options are refused, or the face has changed or was spared as asked."""
    try:
        result = pipe.anonymize(astronaut, **{**FAST, "max_attempts": 1, **options})
    except (PhotoRefusedError, TypeError, ValueError, RuntimeError) as error:
        assert str(error) and "\n" not in str(error)
        return
    after = inside(np.asarray(result.image), face)
    assert [record.method for record in result.faces] != ["kept"] or options["skip_faces"]
    if result.faces[0].method != "kept":
        assert (after != inside(pixels, face)).any(axis=-1).mean() > 0.1
