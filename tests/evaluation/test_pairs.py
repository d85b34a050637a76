"""Which result belongs to which original, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from nullface_pipeline.evaluation.pairs import (
    baseline_picture,
    check_crop,
    check_size,
    file_picture,
    match_results,
    photos_by_name,
    read_method,
)
from nullface_pipeline.face_identity import FaceLocation

from ..refusals import refused_option


def write(path: Path, colour: Any = "grey", size: Any = (32, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, colour).save(path)
    return path


def test_photos_are_matched_by_their_path_without_the_suffix(tmp_path):
    for name in ("a.jpg", "b.png", "more/a.jpg"):
        write(tmp_path / "in" / name)
    for name in ("a.png", "b.png", "more/a.png", "c.png", "a.jpg.preview.png"):
        write(tmp_path / "out" / name)
    (tmp_path / "out" / "notes.txt").write_text("no photo")
    names = photos_by_name(tmp_path / "in")
    assert list(names) == ["a", "b", "more/a"]
    matched = match_results(list(names), tmp_path / "out")
    assert {name: path.relative_to(tmp_path / "out").as_posix() for name, path in matched.items()} == {
        "a": "a.png",
        "b": "b.png",
        "more/a": "more/a.png",
    }


def test_what_is_missing_is_told_or_left_out_on_purpose(tmp_path):
    write(tmp_path / "a.png")
    with refused_option("skip_missing"):
        match_results(["a", "b", "c"], tmp_path)
    assert list(match_results(["a", "b", "c"], tmp_path, skip_missing=True)) == ["a"]
    with pytest.raises(ValueError):
        match_results(["x"], tmp_path, skip_missing=True)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=tmp_path.name):
        photos_by_name(tmp_path)
    with pytest.raises(ValueError, match="absent"):
        photos_by_name(tmp_path / "absent")
    write(tmp_path / "a.png"), write(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="a.jpg"):
        photos_by_name(tmp_path)


def test_methods_by_what_was_asked(tmp_path):
    assert read_method("blur").folder is None
    assert read_method(f"blur={tmp_path}").folder == tmp_path
    for text in ("mosaic", "ours=", f"={tmp_path}", "ours=absent"):
        with refused_option("method"):
            read_method(text)


def test_one_changed_byte_is_another_picture(tmp_path):
    path = write(tmp_path / "a.bmp")
    first = file_picture(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    second = file_picture(path)
    assert first.digest != second.digest
    assert second.pixels.shape == (24, 32, 3)
    with pytest.raises(ValueError, match="text"):
        (tmp_path / "text.jpg").write_text("no photo")
        file_picture(tmp_path / "text.jpg").pixels


def test_pictures_let_go_of_their_pixels(tmp_path):
    picture = file_picture(write(tmp_path / "a.png"))
    assert "pixels" not in vars(picture)
    picture.pixels
    assert "pixels" in vars(picture) and "pixels" not in vars(picture.unread())


def test_a_baseline_is_known_by_the_original_and_the_face(tmp_path):
    original = file_picture(write(tmp_path / "a.png"))
    landmarks = np.zeros((5, 2), dtype=np.float32)
    face, other = (FaceLocation(np.array([4, 4, x, 20], dtype=np.float32), landmarks, 1.0) for x in (20, 21))
    assert baseline_picture("box", original, face).digest == baseline_picture("box", original, face).digest
    different = [("blur", face), ("box", other)]
    assert all(
        baseline_picture(*each[:1], original, each[1]).digest != baseline_picture("box", original, face).digest
        for each in different
    )
    assert not baseline_picture("box", original, face).pixels[6:18, 6:18].any()


def test_other_sizes_and_crops_are_refused():
    check_size("a", "ours", (24, 32), (24, 32))
    with pytest.raises(ValueError, match="64 x 48"):
        check_size("a", "ours", (24, 32), (48, 64))
    rng = np.random.default_rng(0)
    face = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], dtype=np.float32)
    originals = np.stack([face] * 20)
    check_crop("ours", originals, originals + rng.normal(0, 3, (20, 5, 2)))
    with pytest.raises(ValueError, match="ours"):
        check_crop("ours", originals, originals + [0, 40] + rng.normal(0, 3, (20, 5, 2)))
    # Patterns that are taken for faces lie here and there.
    check_crop("box", originals, originals + rng.normal(0, 80, (20, 1, 2)))
