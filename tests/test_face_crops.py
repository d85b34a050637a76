import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nullface_pipeline.face_crops import FaceCrop, edge_feather


# A frontal face in units of the eye distance, around the point between the eyes.
FACE = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.55], [-0.4, 1.05], [0.4, 1.05]])


def landmarks_at(x: float, y: float, eye_distance: float, degrees: float = 0.0) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return eye_distance * FACE @ np.array([[cos, sin], [-sin, cos]]) + [x, y]


faces = st.builds(
    landmarks_at,
    x=st.floats(-20, 220),
    y=st.floats(-20, 180),
    eye_distance=st.floats(4, 120),
    degrees=st.floats(-180, 180),
)


def smooth_photo(height: int = 160, width: int = 200) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    channels = [128 + 100 * np.sin(x / 23 + c) * np.cos(y / 17 - c) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def test_crop_is_the_ffhq_crop():
    crop = FaceCrop.from_landmarks(landmarks_at(100, 80, 20), 128)
    assert crop.scale == pytest.approx(128 / (4 * 20))
    eyes = crop.points_to_crop(landmarks_at(100, 80, 20)[:2])
    assert eyes[0, 1] == pytest.approx(eyes[1, 1])
    assert eyes.mean(axis=0)[0] == pytest.approx(63.5)
    assert eyes[1, 0] - eyes[0, 0] == pytest.approx(32)


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, -135])
def test_rolled_faces_come_out_upright(degrees):
    points = landmarks_at(100, 80, 20, degrees)
    upright = FaceCrop.from_landmarks(points, 128).points_to_crop(points)
    expected = FaceCrop.from_landmarks(landmarks_at(100, 80, 20), 128).points_to_crop(landmarks_at(100, 80, 20))
    np.testing.assert_allclose(upright, expected, atol=1e-6)


@given(points=faces, size=st.sampled_from([64, 128, 512]))
def test_points_return_to_where_they_were(points, size):
    crop = FaceCrop.from_landmarks(points, size)
    np.testing.assert_allclose(crop.points_to_photo(crop.points_to_crop(points)), points, atol=1e-6)


@given(points=faces)
@settings(max_examples=40, deadline=None)
def test_paste_with_an_empty_mask_changes_nothing(points):
    photo = smooth_photo()
    crop = FaceCrop.from_landmarks(points, 64)
    black = np.zeros((64, 64, 3), dtype=np.uint8)
    assert np.array_equal(crop.paste(photo, black, np.zeros((64, 64), dtype=np.float32)), photo)


@given(points=faces)
@settings(max_examples=40, deadline=None)
def test_paste_changes_nothing_outside_the_crop(points):
    photo = smooth_photo()
    crop = FaceCrop.from_landmarks(points, 64)
    pasted = crop.paste(photo, 255 - crop.crop_image(photo), edge_feather(64))
    x0, y0, x1, y1 = crop.photo_box(photo.shape[:2])
    outside = np.ones(photo.shape[:2], dtype=bool)
    outside[y0:y1, x0:x1] = False
    assert np.array_equal(pasted[outside], photo[outside])
    assert pasted.shape == photo.shape and pasted is not photo


@given(points=faces)
@settings(max_examples=40, deadline=None)
def test_round_trip_of_a_smooth_photo(points):
    photo = smooth_photo()
    crop = FaceCrop.from_landmarks(points, 128)
    if not 0.5 <= crop.scale <= 4:
        return
    pasted = crop.paste(photo, crop.crop_image(photo), edge_feather(128))
    assert np.abs(pasted.astype(int) - photo).mean() < 1.0


def test_mask_and_image_go_the_same_way():
    """A white square painted into the photo lands where the mask of that square lands."""
    photo = np.zeros((160, 200, 3), dtype=np.uint8)
    photo[60:90, 80:120] = 255
    crop = FaceCrop.from_landmarks(landmarks_at(100, 75, 20, 25), 128)
    mask = crop.crop_mask((photo[..., 0] / 255).astype(np.float32))
    np.testing.assert_allclose(mask, crop.crop_image(photo)[..., 0] / 255, atol=0.01)


def test_crop_beyond_the_border_is_mirrored():
    photo = smooth_photo()
    crop = FaceCrop.from_landmarks(landmarks_at(5, 5, 20), 64)
    assert crop.crop_image(photo).min() > 0, "no black corner"
    assert crop.crop_mask(np.ones(photo.shape[:2], dtype=np.float32)).min() == 0


@pytest.mark.parametrize("size", [(40, 33_000), (33_000, 40)])
def test_photos_longer_than_opencv_warps(size):
    """OpenCV refuses pictures of more than 32,766 pixels a side."""
    photo = np.zeros((*size, 3), dtype=np.uint8)
    photo[-160:, -160:] = smooth_photo()[: min(size[0], 160), : min(size[1], 160)]
    crop = FaceCrop.from_landmarks(landmarks_at(size[1] - 20, size[0] - 20, 5), 64)
    pasted = crop.paste(photo, crop.crop_image(photo), edge_feather(64))
    assert crop.crop_image(photo).max() > 0 and crop.crop_mask(photo[..., 0] / np.float32(255)).max() > 0
    assert np.abs(pasted[-160:, -160:].astype(int) - photo[-160:, -160:]).mean() < 1.0


def test_shrinking_averages():
    """A one-pixel checkerboard becomes grey, not a pattern."""
    y, x = np.mgrid[:512, :512]
    photo = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    crop = FaceCrop.from_landmarks(landmarks_at(256, 230, 100), 64)
    assert np.abs(crop.crop_image(photo).astype(int) - 127).max() < 40


@pytest.mark.parametrize(
    "points", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.zeros((4, 2))], ids=["one point", "nan", "four points"]
)
def test_bad_landmarks(points):
    with pytest.raises(ValueError, match="landmarks"):
        FaceCrop.from_landmarks(points, 64)


def test_feather_is_smooth_and_zero_at_the_border():
    feather = edge_feather(128)
    assert feather.shape == (128, 128) and feather.dtype == np.float32
    assert feather[64, 64] == 1.0 and feather[0].max() < 0.02 and feather[:, -1].max() < 0.02
    assert np.abs(np.diff(feather, axis=0)).max() < 0.25
