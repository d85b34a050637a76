"""Reading: every frame upright and on time, and what is refused."""

import errno
import io
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from nullface_pipeline.video.reader import VideoError, read_frames, read_info

from .clips import MILLISECOND, write_clip


pytest.importorskip("av")


PTS = [0, 40, 90, 130, 250, 290, 300, 350, 420, 460]


def pictures(count: int = 10, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames of which each has its own grey, and a bright corner at the top left."""
    frames = (
        np.full((count, height, width, 3), 60, dtype=np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
    )
    frames[:, : height // 4, : width // 4] = 230
    return frames


def test_importing_av_turns_its_log_off(tmp_path):
    """A decoder's thread that logs can deadlock with Python's lock."""
    import av

    path = write_clip(tmp_path / "a.mp4", pictures(), PTS)
    av.logging.set_level(av.logging.ERROR)
    read_info(path)
    assert av.logging.get_level() is None


def test_frames_come_in_order_with_their_times(tmp_path):
    path = write_clip(tmp_path / "a.mp4", pictures(), PTS)
    info = read_info(path)
    read = list(read_frames(path))
    assert (info.width, info.height) == (64, 48)
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
    with pytest.raises(VideoError, match="mirror"):
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
    with pytest.raises(VideoError, match="not a readable MP4"):
        read_info(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="does not exist"):
        read_info(tmp_path / "b.mp4")


def test_picture_with_an_unknown_codec_is_refused(tmp_path):
    path = write_clip(tmp_path / "a.mp4", pictures(), PTS)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match="codec"):
        read_info(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("clip.mp4", "ffconcat version 1.0\nfile {other}\n"),
        ("clip.mp4", "ffconcat version 1.0\nfile clip.mp4\n"),
        ("clip.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n"),
    ],
)
def test_a_playlist_opens_no_other_file(tmp_path, name, content):
    other = write_clip(tmp_path / "other.ts", pictures(), PTS)
    (tmp_path / name).write_text(content.format(other=other))
    with pytest.raises(VideoError, match="not a readable MP4"):
        read_info(tmp_path / name)


def test_a_relative_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "12.mp4", pictures(), PTS).rename("12:30.mp4")
    assert read_info(Path("12:30.mp4")).width == 64


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".avi", ".mp4", ".flv"])
@pytest.mark.parametrize("share", [0.67, 0.95])
def test_a_file_that_was_cut_off_is_refused(tmp_path, suffix, share):
    """Ten seconds, because the duration in FLV is not exact."""
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(suffix, "libx264")
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    # AVI has no times but numbers.
    pts, base = ([500 * n for n in range(20)], MILLISECOND) if suffix != ".avi" else (list(range(20)), Fraction(1, 2))
    path = write_clip(tmp_path / f"a{suffix}", noise, pts, base, codec=codec)
    assert len(list(read_frames(path))) == 20
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(VideoError):
        list(read_frames(path))


def test_a_failing_disk_is_not_an_error_of_the_video(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", pictures(), PTS)

    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 100:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(min(size, 64))

    content = path.read_bytes()
    monkeypatch.setattr(Path, "open", lambda *_: Failing(content))
    with pytest.raises(OSError, match="Input/output"):
        read_info(path)


@pytest.mark.parametrize("aspect", [Fraction(24, 11), Fraction(1, 2)])
@pytest.mark.parametrize("rotation", [0, 90])
def test_frames_have_square_pixels(tmp_path, aspect, rotation):
    path = write_clip(tmp_path / "a.mp4", pictures(), PTS, rotation=rotation, aspect=aspect)
    shown = (round(64 * aspect), 48) if aspect > 1 else (64, round(48 / aspect))
    info, frame = read_info(path), next(read_frames(path))
    assert (info.width, info.height) == (shown if rotation == 0 else shown[::-1])
    assert frame.pixels.shape == (info.height, info.width, 3)


def test_pixels_of_an_absurd_shape_are_refused(tmp_path):
    path = write_clip(tmp_path / "a.mp4", pictures(), PTS, aspect=Fraction(8))
    with pytest.raises(VideoError, match="aspect ratio is 8"):
        read_info(path)


def test_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"pip install 'nullface-pipeline\[video\]'"):
        read_info(tmp_path / "a.mp4")
