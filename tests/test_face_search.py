"""Every face of a photo, with nullface-tiny's detector."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import pytest
from skimage import data

from nullface_pipeline import face_search
from nullface_pipeline.face_identity import DetectedFace, detect_faces, load_face_analyser
from nullface_pipeline.face_search import TILE, distinct_faces, is_cut, move, overlap, search_faces, tiles
from nullface_pipeline.tiny_model import TINY_FOLDER


@pytest.fixture(scope="module")
def analyser() -> Any:
    return load_face_analyser(TINY_FOLDER / "face_models", detection_threshold=0.3)


def found(box: Sequence[float], score: float = 0.9) -> DetectedFace:
    return DetectedFace(np.array(box, dtype=np.float32), np.zeros((5, 2), np.float32), score, np.zeros(512))


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_turned_photo_has_the_same_faces(analyser, quarter_turns):
    photo = data.astronaut()
    (upright,) = detect_faces(analyser, photo)
    turned = np.rot90(photo, quarter_turns)
    (face,) = search_faces(analyser, turned)
    x, y = (np.rot90(plane, quarter_turns) for plane in np.meshgrid(np.arange(512), np.arange(512)))
    columns, rows = face.landmarks.round().astype(int).T
    back = np.stack([x[rows, columns], y[rows, columns]], axis=1)
    assert np.abs(back - upright.landmarks).max() < 1.5, "the landmarks keep their order"
    assert np.dot(face.embedding, upright.embedding) > 0.99


def test_small_faces_in_a_large_photo(analyser):
    """In 3000 pixels scaled down to 640, these faces are 8 pixels wide."""
    photo = np.full((2000, 3000, 3), 120, dtype=np.uint8)
    face = np.asarray(PIL.Image.fromarray(data.astronaut()[:300, 80:380]).resize((110, 110)))
    places = [(40, 60), (1230, 640), (2700, 1800)]
    for x, y in places:
        photo[y : y + 110, x : x + 110] = face
    faces = search_faces(analyser, photo)
    for x, y in places:
        inside = [
            f for f in faces if x < f.landmarks[:, 0].mean() < x + 110 and y < f.landmarks[:, 1].mean() < y + 110
        ]
        assert len(inside) == 1


@pytest.mark.parametrize("size", [(100, 100), (TILE, TILE), (TILE + 1, 300), (2000, 3000), (4000, 6000)])
def test_tiles_cover_a_large_photo_and_share_what_a_face_needs(size):
    covered = np.zeros(size, dtype=bool)
    boxes = list(tiles(size))
    for x0, y0, x1, y1 in boxes:
        assert x1 - x0 <= TILE and y1 - y0 <= TILE
        covered[y0:y1, x0:x1] = True
    assert covered.all() if max(size) > TILE else not boxes
    face = found((TILE - 200, 20, TILE - 20, 120))
    if size[1] > TILE:
        assert any(
            not is_cut(face, box, size) and box[0] <= face.box[0] and face.box[2] < box[2] and box[1] == 0
            for box in boxes
        )


def test_a_face_at_the_edge_of_a_tile_is_cut_unless_the_photo_ends_there():
    assert is_cut(found((-1, 10, 30, 50)), (0, 0, 100, 100), (100, 200)) is False
    assert is_cut(found((60, 10, 99.5, 50)), (0, 0, 100, 100), (100, 200)) is True
    assert is_cut(found((60, 10, 99.5, 50)), (0, 0, 100, 100), (100, 100)) is False
    assert is_cut(found((100, 10, 140, 50)), (100, 0, 200, 100), (100, 200)) is True


def test_move():
    moved = move(found((1, 2, 3, 4)), 10, 20)
    assert moved.box.tolist() == [11, 22, 13, 24] and moved.landmarks.tolist() == [[10, 20]] * 5


def test_a_face_found_twice_counts_once():
    twice = [found((10, 10, 50, 60), 0.6), found((12, 12, 47, 54), 0.9), found((80, 10, 100, 40), 0.5)]
    assert distinct_faces(twice) == [twice[1], twice[2]]


def test_two_people_cheek_to_cheek_are_two():
    left, right = found((0, 0, 100, 120), 0.9), found((48, 0, 148, 120), 0.8)
    assert overlap(left.box, right.box) > 0.3
    assert distinct_faces([right, left]) == [left, right]


def test_a_face_that_every_tile_cuts_is_hidden_in_parts(analyser, monkeypatch):
    """In 6,500 pixels scaled to 640 it is 12 pixels wide, and the seam of two tiles goes through
    it.
    """
    monkeypatch.setattr(face_search, "TILE", 320)
    monkeypatch.setattr(face_search, "TILE_OVERLAP", 80)
    photo = np.full((320, 6500, 3), 120, dtype=np.uint8)
    face = np.asarray(PIL.Image.fromarray(data.astronaut()[:300, 80:380]))
    boxes = list(tiles(photo.shape[:2]))
    seam = (boxes[4][2] + boxes[5][0]) // 2
    photo[10:310, seam - 150 : seam + 150] = face
    assert not detect_faces(analyser, photo)
    assert any(seam - 150 < f.box[[0, 2]].mean() < seam + 150 for f in search_faces(analyser, photo))


def test_overlap_of_boxes():
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (20, 20, 30, 30)) == 0.0
