"""Photo files whose transparency shows a face that the picture itself does not show."""

import io
from dataclasses import replace

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from skimage import data

from nullface_pipeline.photo_files import PhotoFileError, read_photo
from nullface_pipeline.photo_files.anonymize import anonymize_file
from nullface_pipeline.photo_files.photo_file import PhotoFile
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.photo_records import PhotoRefusedError


QUICK = PhotoOptions(
    seed=0,
    num_inference_steps=4,
    skip=0.5,
    similarity_threshold=1.0,
    accept_recognizable=True,
    max_attempts=1,
    identity="opposite",
)


@pytest.fixture(scope="module")
def astronaut() -> PIL.Image.Image:
    return PIL.Image.fromarray(data.astronaut()[:300, 60:360])


def opened(image: PIL.Image.Image, alpha: PIL.Image.Image | None) -> PhotoFile:
    picture = image.copy()
    picture.putalpha(alpha)
    file = io.BytesIO()
    picture.save(file, "PNG")
    file.seek(0)
    return read_photo(file)


def test_a_cut_out_keeps_its_transparency(pipe):
    photo = PIL.Image.fromarray(data.astronaut())
    alpha = PIL.Image.new("L", photo.size)
    PIL.ImageDraw.Draw(alpha).rounded_rectangle((10, 5, 500, 505), 40, 255)
    file = opened(photo, alpha)
    # With other noise nullface-tiny's detector may see a face too many before the white, and the
    # photo is refused.
    result = anonymize_file(pipe, file, replace(QUICK, seed=2, identity="random"))
    assert file.alpha is not None and result.faces[0].method == "replaced"


def test_a_photo_without_transparency_is_the_pipelines_business(pipe, astronaut):
    file = io.BytesIO()
    astronaut.save(file, "PNG")
    file.seek(0)
    result = anonymize_file(pipe, read_photo(file), QUICK)
    assert np.array_equal(np.asarray(result.image), np.asarray(pipe.anonymize(astronaut, QUICK).image))


def small_face(astronaut: PIL.Image.Image, size: int = 90) -> PIL.Image.Image:
    return astronaut.convert("L").crop((60, 0, 260, 220)).resize((size, size), PIL.Image.Resampling.LANCZOS)


def grey_in_a_corner(astronaut: PIL.Image.Image) -> PIL.Image.Image:
    alpha = PIL.Image.new("L", astronaut.size, 255)
    alpha.paste(small_face(astronaut), (205, 205))
    return alpha


def black_and_white(astronaut: PIL.Image.Image) -> PIL.Image.Image:
    alpha = PIL.Image.new("L", astronaut.size, 255)
    alpha.paste(small_face(astronaut, 180).point(lambda level: 255 * (level > 110)), (115, 115))
    return alpha


def dithered(astronaut: PIL.Image.Image) -> PIL.Image.Image:
    return astronaut.convert("1").convert("L")


def coarsely_dithered(astronaut: PIL.Image.Image) -> PIL.Image.Image:
    half = astronaut.resize((150, 150)).convert("1")
    return half.resize((300, 300), PIL.Image.Resampling.NEAREST).convert("L")


def nearly_opaque(astronaut: PIL.Image.Image) -> PIL.Image.Image:
    return astronaut.convert("L").point(lambda level: 247 + level // 32)


@pytest.mark.parametrize("draw", [grey_in_a_corner, black_and_white, dithered, coarsely_dithered, nearly_opaque])
@pytest.mark.parametrize("negative", [False, True])
def test_a_face_in_the_transparency_never_leaves(pipe, astronaut, draw, negative):
    """It is refused, or what was a face is opaque."""
    alpha = draw(astronaut)
    alpha = PIL.Image.eval(alpha, lambda level: 255 - level) if negative and draw is not nearly_opaque else alpha
    try:
        file = opened(astronaut, alpha)
    except PhotoFileError as error:
        assert "transparency" in str(error)
        return
    if file.alpha is None:
        return
    with pytest.raises(PhotoRefusedError):
        anonymize_file(pipe, file, QUICK)


def test_a_face_that_only_a_background_shows_is_refused(pipe, astronaut):
    """Light skin on white: the picture is white where the face is light, and clear where it is
    dark.
    """
    grey = np.asarray(astronaut.convert("L"))
    picture = np.asarray(astronaut).copy()
    picture[150:, 150:] = 255
    alpha = np.full(grey.shape, 255, dtype=np.uint8)
    face = np.asarray(small_face(astronaut, 150))
    alpha[150:, 150:] = np.where(face > 110, 255, 0)
    file = opened(PIL.Image.fromarray(picture), PIL.Image.fromarray(alpha))
    with pytest.raises(PhotoRefusedError):
        anonymize_file(pipe, file, QUICK)
