"""Labels of the face parser's training, and the regions that the trained parser finds."""

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from nullface_pipeline.face_crops import FaceCrop
from nullface_pipeline.face_masks import face_masks
from nullface_pipeline.face_parsing import load_face_parser, region_mask
from nullface_pipeline.selftest.checks import ASTRONAUT_LANDMARKS
from nullface_pipeline.tiny_model import TINY_FOLDER
from training.face_labels import GLASSES, HAIR, HAT, IGNORED, LABELS, LENS, label_map
from training.face_overlays import add_fringe, add_glasses, add_hat
from training.hair_labels import FaceFrame, hair_labels
from training.parser import ignore_real_glasses, segmentation_loss


SIZE = 160
SKIN, BLUE, DARK = (210, 160, 135), (60, 90, 170), (40, 28, 22)
EYES = [LABELS.index(name) for name in ("l_eye", "r_eye")]


def landmarks() -> np.ndarray:
    """(68, 2) landmarks of a face from the front in a crop of 160 px."""
    angle = np.linspace(np.pi, 0.0, 17)
    jaw = np.stack([80 + 31 * np.cos(angle), 78 + 48 * np.sin(angle)], axis=1)
    arc = np.array([0, -2, -3, -3, -2])
    brows = [np.stack([np.linspace(x, x + 20, 5), 66 + a], axis=1) for x, a in ((54, arc), (86, arc[::-1]))]
    nose = np.stack([np.full(4, 80.0), np.linspace(74, 90, 4)], axis=1)
    wings = np.stack([np.linspace(73, 87, 5), [96, 97, 98, 97, 96]], axis=1)
    eye = np.array([[-6, 0], [-2, -2.5], [2, -2.5], [6, 0], [2, 2.5], [-2, 2.5]])
    turn = np.linspace(np.pi, -np.pi, 13)[:12]
    mouth = np.stack([80 + 13 * np.cos(turn), 110 - 5 * np.sin(turn)], axis=1)
    inner = np.linspace(np.pi, -np.pi, 9)[:8]
    lips = np.stack([80 + 9 * np.cos(inner), 110 - 1.5 * np.sin(inner)], axis=1)
    return np.concatenate([jaw, *brows, nose, wings, eye + [64, 75], eye + [96, 75], mouth, lips])


def portrait(hair: tuple[int, int, int] = DARK) -> np.ndarray:
    """Crop of a face of one colour before a blue wall, with hair down to half of the forehead."""
    image = np.full((SIZE, SIZE, 3), BLUE, np.uint8)
    cv2.ellipse(image, (80, 66), (44, 50), 0, 180, 360, hair, -1)
    cv2.ellipse(image, (80, 78), (32, 49), 0, 0, 360, SKIN, -1)
    image[:50, 45:116] = np.where((image[:50, 45:116] == SKIN).all(axis=-1, keepdims=True), hair, image[:50, 45:116])
    return image


def test_hair_over_the_forehead_is_found_by_its_colour():
    points, image = landmarks(), portrait()
    found, dark = hair_labels(image, points), (image == DARK).all(axis=-1)
    forehead = (label_map(points, SIZE) == LABELS.index("skin")) & FaceFrame.of(points, SIZE).above_brows
    assert (forehead & dark).sum() > 200
    assert (found[forehead & dark] == HAIR).mean() > 0.9
    assert (found[forehead & ~dark] == HAIR).mean() < 0.1
    assert not found[~FaceFrame.of(points, SIZE).above_brows].any()


def test_a_forehead_without_colours_is_ignored():
    points = landmarks()
    grey = cv2.cvtColor(cv2.cvtColor(portrait(), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    found = hair_labels(grey, points)
    assert not (found == HAIR).any() and found[40, 80] == IGNORED and found[100, 80] == 0


def test_a_bald_head_has_no_hair():
    points = landmarks()
    found = hair_labels(portrait(hair=SKIN), points)
    assert not (found == HAIR).any() and not found[label_map(points, SIZE) > 0].any()


@pytest.mark.parametrize(("add", "label"), [(add_fringe, HAIR), (add_hat, HAT)])
def test_hair_and_hats_are_labelled_above_the_brows_only(add, label):
    """The mask never loses a pixel of the face below the brows."""
    points, image, rng = landmarks(), portrait(), np.random.default_rng(0)
    below = ~FaceFrame.of(points, SIZE).above_brows
    polygons = label_map(points, SIZE)
    for _ in range(30):
        covered, others = add(image, points, hair_labels(image, points), rng)
        labels = label_map(points, SIZE, others)
        assert not np.isin(labels[below], (HAIR, HAT)).any()
        inside = below & (polygons > 0) & (others != IGNORED)
        assert (labels[inside] == polygons[inside]).all()
        changed = (covered.astype(int) - image).any(axis=-1)
        assert (labels[changed & (polygons > 0) & ~below] == label).any()


def test_drawn_glasses_are_labelled_with_their_lenses_but_not_the_eyes():
    points, image, rng = landmarks(), portrait(), np.random.default_rng(0)
    for _ in range(30):
        others = add_glasses(image, points, np.zeros((SIZE, SIZE), np.uint8), rng)[1]
        labels = label_map(points, SIZE, others)
        assert (labels == GLASSES).sum() > 150
        assert set(np.unique(others)) <= {0, GLASSES, LENS}
        if (others == LENS).any():
            seen = np.isin(label_map(points, SIZE), EYES) & (others == LENS)
            assert seen.any() and np.isin(labels[seen], EYES).all()
        assert not (labels[(points[:, 1].max().astype(int) - 10) :] == GLASSES).any()


def test_ignored_pixels_do_not_change_the_loss():
    logits = torch.randn(1, len(LABELS), 4, 4, generator=torch.Generator().manual_seed(0))
    target = torch.ones(1, 4, 4, dtype=torch.int64)
    target[0, 0] = IGNORED
    other = logits.clone()
    other[..., 0, :] += torch.arange(len(LABELS)).view(-1, 1)
    assert torch.equal(segmentation_loss(logits, target), segmentation_loss(other, target))


def test_real_glasses_are_ignored_unless_others_are_drawn():
    logits, target = torch.zeros(2, len(LABELS), 32, 32), torch.ones(2, 32, 32, dtype=torch.int64)
    logits[:, GLASSES, :20] = 1.0
    target[1, 31] = GLASSES
    result = ignore_real_glasses(logits, target)
    assert (result[0, :20] == IGNORED).all() and (result[0, 20:] == 1).all()
    assert torch.equal(result[1], target[1])
    logits[:, GLASSES, 4:] = -1.0
    assert torch.equal(ignore_real_glasses(logits, target), target), "a few pixels are an error"


def astronaut_with_glasses() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop of the astronaut with dark round glasses, her landmarks in it, and the glasses' mask."""
    crop = FaceCrop.from_landmarks(ASTRONAUT_LANDMARKS, 128)
    image, points = crop.crop_image(data.astronaut()), crop.points_to_crop(ASTRONAUT_LANDMARKS)
    frame = np.zeros((128, 128), np.uint8)
    left, right = (tuple(np.rint(point).astype(int).tolist()) for point in points[:2])
    for eye in (left, right):
        cv2.ellipse(frame, eye, (12, 10), 0, 0, 360, 1, 2)
    cv2.line(frame, (left[0] + 12, left[1]), (right[0] - 12, right[1]), 1, 2)
    image[frame > 0] = (25, 20, 20)
    return image, points, frame > 0


def test_nullface_tiny_replaces_glasses_as_a_whole_or_keeps_them():
    parser = load_face_parser(TINY_FOLDER / "face_parser")
    image, points, frame = astronaut_with_glasses()
    found = region_mask(parser(image), parser.labels, ("glasses",))
    assert (found & frame).sum() > 0.7 * frame.sum()
    changed, kept = (face_masks(parser, image, points, keep)[0] for keep in ((), ("glasses",)))
    assert changed[frame].min() > 0.5, "no part of the frame remains"
    assert np.median(kept[frame]) == 0.0
    assert kept[100, 64] > 0.9, "the cheeks and the mouth change"


def test_nullface_tiny_leaves_hair_over_the_forehead():
    parser = load_face_parser(TINY_FOLDER / "face_parser")
    crop = FaceCrop.from_landmarks(ASTRONAUT_LANDMARKS, 128)
    image = crop.crop_image(data.astronaut())
    fringe = image.copy()
    grain = np.random.default_rng(0).normal(0.0, 6.0, (1, 128, 1))
    y = int(crop.points_to_crop(ASTRONAUT_LANDMARKS)[:2, 1].min())
    fringe[8 : y - 14, 38:90] = np.clip(np.array([60, 40, 28]) + grain[:, 38:90], 0, 255)
    hair = region_mask(parser(fringe), parser.labels, ("hair", "hat"))
    assert hair[y - 28 : y - 18, 50:78].mean() > 0.8
    assert not hair[y - 6 :, 40:88].any()
