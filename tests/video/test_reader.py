"""Reading: every frame upright and on time, and what is refused."""

import struct
import sys

import numpy as np
import pytest

from nullface_pipeline.video.reader import VideoError, read_frames, read_info

from .clips import MILLISECOND, write_clip


pytest.importorskip("av")


PTS = [0, 40, 90, 130, 250, 290, 300, 350, 420, 460]


def pictures(count=10, height=48, width=64):
    """Frames of which each has its own grey, and a bright corner at the top left."""
    frames = (
        np.full((count, height, width, 3), 60, dtype=np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
    )
    frames[:, : height // 4, : width // 4] = 230
    return frames


def test_frames_come_in_order_with_their_times(tmp_path):
    path = write_clip(tmp_path / "a.mp4", pictures(), PTS)
    info = read_info(path)
    read = list(read_frames(path))
    assert (info.width, info.height, info.has_audio, info.deep) == (64, 48, False, False)
    assert [frame.pts * info.time_base for frame in read] == [time * MILLISECOND for time in PTS]
    assert all(np.abs(frame.pixels.astype(int) - picture).mean() < 3 for frame, picture in zip(read, pictures()))


@pytest.mark.parametrize(("rotation", "corner"), [(90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_frames_are_upright(tmp_path, rotation, corner):
    path = write_clip(tmp_path / "a.mp4", pictures(), PTS, rotation=rotation)
    info, frame = read_info(path), next(read_frames(path))
    assert frame.pixels.shape == (info.height, info.width, 3)
    assert (info.width > info.height) == (rotation == 180)
    half = frame.pixels.astype(int).mean(axis=-1)
    brightest = np.unravel_index(half.argmax(), half.shape)
    assert brightest[0] // (info.height // 2) in (0, 1)
    quarter = half[:4, :4], half[:4, -4:], half[-4:, :4], half[-4:, -4:]
    assert int(np.argmax([part.mean() for part in quarter])) == {90: 2, 180: 3, 270: 1}[rotation]


def test_ten_bits_become_eight(tmp_path):
    path = write_clip(tmp_path / "a.mp4", pictures(), PTS, pix_fmt="yuv420p10le")
    assert read_info(path).deep
    assert np.abs(next(read_frames(path)).pixels.astype(int) - pictures()[0]).mean() < 3


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_refused(tmp_path, transfer, name):
    path = write_clip(tmp_path / "a.mp4", pictures(), PTS, pix_fmt="yuv420p10le", colour=(transfer, 9))
    with pytest.raises(VideoError, match=f"{name}.*convert it to SDR first"):
        list(read_frames(path))


def test_mirrored_picture_is_refused(tmp_path):
    path = write_clip(tmp_path / "a.mp4", pictures(), PTS)
    upright = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    content = path.read_bytes()
    place = content.index(upright, content.index(b"tkhd"))
    mirrored = struct.pack(">9i", -0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    path.write_bytes(content[:place] + mirrored + content[place + 36 :])
    with pytest.raises(VideoError, match="mirrored"):
        next(read_frames(path))


@pytest.mark.parametrize("damage", ["flip", "zero", "length"])
def test_damaged_frames_refuse_the_file(tmp_path, damage):
    """FFmpeg alone would fill such frames in from others, and say nothing."""
    import av

    rng = np.random.default_rng(0)
    moving = np.stack([np.roll(rng.integers(0, 255, (120, 160, 3)), 3 * n, axis=1) for n in range(10)]).astype(
        np.uint8
    )
    path = write_clip(tmp_path / "a.mp4", moving, PTS)
    with av.open(str(path)) as container:
        place, size = next((p.pos, p.size) for p in list(container.demux(video=0))[5:] if p.size)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[place + 20 : place + 40] = bytes(value ^ 0xFF for value in content[place + 20 : place + 40])
    elif damage == "zero":
        content[place + size // 3 : place + size] = bytes(size - size // 3)
    else:
        content[place + 1] ^= 0x03
    path.write_bytes(content)
    with pytest.raises(VideoError, match="damaged"):
        list(read_frames(path))


def test_what_is_no_video(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"This is a text.")
    with pytest.raises(VideoError, match="no video that can be read"):
        read_info(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="does not exist"):
        read_info(tmp_path / "b.mp4")


def test_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"pip install 'nullface-pipeline\[video\]'"):
        read_info(tmp_path / "a.mp4")
