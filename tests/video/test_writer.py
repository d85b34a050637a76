"""Writing: segments joined exactly, the sound as asked for, and nothing else of the original's
container.
"""

import errno
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nullface_pipeline.video.reader import Frame, VideoError, read_frames, read_info
from nullface_pipeline.video.writer import check_audio, join_segments, output_suffix, write_segment

from .clips import MILLISECOND, read_back, write_clip
from .test_reader import pictures


av = pytest.importorskip("av")


PTS = [0, 40, 90, 130, 250, 290, 300, 350, 420, 460]
SECRETS = {"title": "At the clinic", "location": "+48.2082+016.3738/", "comment": "Room 7"}
CHAPTER = "Arrival of Ann"
SECRET = b"\xff\xd8\xff\xe0 a picture of Ann \xff\xd9"


def copy(source: Path, target: Path, audio: str = "none", cut: Any = 4) -> Path:
    """Through two segments; returns the path of the result."""
    info = read_info(source)
    frames = list(read_frames(source))
    segments = [target.parent / "0.nut", target.parent / "1.nut"]
    write_segment(segments[0], frames[:cut], info, target.suffix)
    write_segment(segments[1], frames[cut:], info, target.suffix)
    join_segments(target, segments, source, audio, target.suffix)
    return target


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".webm"])
def test_pieces_are_joined_frame_for_frame(tmp_path, suffix):
    source = write_clip(tmp_path / "in.mp4", pictures(), PTS)
    frames, times = read_back(copy(source, tmp_path / f"out{suffix}"))
    assert times == [time * MILLISECOND for time in PTS]
    assert np.abs(frames.astype(int) - pictures()).mean() < 3


def test_odd_sides_get_one_row_more(tmp_path):
    info = read_info(write_clip(tmp_path / "in.mp4", pictures(), PTS))
    odd = [Frame(picture[:47, :63], time) for picture, time in zip(pictures(), PTS)]
    write_segment(tmp_path / "a.nut", odd, type(info)(**{**vars(info), "width": 63, "height": 47}), ".mp4")
    frames, _ = read_back(tmp_path / "a.nut")
    assert frames.shape[1:] == (48, 64, 3) and np.abs(frames[0, :47, :63].astype(int) - odd[0].pixels).mean() < 3


def test_nothing_of_the_container_is_copied(tmp_path):
    source = write_clip(tmp_path / "in.mov", pictures(), PTS, sound=True, metadata=SECRETS, chapter=CHAPTER)
    assert all(secret.encode() in source.read_bytes() for secret in [*SECRETS.values(), CHAPTER])
    for audio in ("none", "keep"):
        content = copy(source, tmp_path / "out.mp4", audio).read_bytes()
        assert not [secret for secret in [*SECRETS.values(), CHAPTER] if secret.encode() in content]
        assert b"compositeWithTrainedAlgorithmicMedia" in content
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert [stream.type for stream in container.streams] == ["video"] + ["audio"] * (audio != "none")
            assert not container.chapters()


def test_kept_sound_is_byte_for_byte_the_same(tmp_path):
    source = write_clip(tmp_path / "in.mp4", pictures(), PTS, sound=True)
    assert audio_packets(copy(source, tmp_path / "out.mp4", "keep")) == audio_packets(source)


def audio_packets(path: Path) -> list[tuple[bytes, Any]]:
    with av.open(str(path)) as container:
        return [(bytes(packet), packet.pts * packet.time_base) for packet in container.demux(audio=0) if packet.size]


def sound(path: Path) -> tuple[np.ndarray, Any]:
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    return np.concatenate([frame.to_ndarray().reshape(-1, frame.samples)[0] for frame in frames]), frames[
        0
    ].sample_rate


def test_sound_that_a_container_does_not_take_is_refused(tmp_path):
    source = write_clip(tmp_path / "in.mp4", pictures(), PTS, sound=True)
    check_audio(source, "keep", ".mp4")
    with pytest.raises(VideoError, match=r"aac\) cannot be copied into a WEBM file: use --audio none"):
        check_audio(source, "keep", ".webm")


def test_result_has_square_pixels(tmp_path):
    source = write_clip(tmp_path / "in.mp4", pictures(), PTS, aspect=Fraction(3, 2))
    with av.open(str(copy(source, tmp_path / "out.mp4"))) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.sample_aspect_ratio) == (96, 48, 1)


def with_sound(path: Path, codec: str, header: Callable[[bytes], bytes] | None = None) -> Path:
    """Half a second of silence in a codec, with a header if one is given."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        stream = container.add_stream(codec, rate=48_000, layout="stereo", options={"strict": "experimental"})
        stream.codec_context.open()
        size = stream.codec_context.frame_size or 1024
        packets = []
        for start in range(0, 24_000, size):
            silence = np.zeros((2, size), np.float32 if stream.format.name.startswith("flt") else np.int16)
            frame = av.AudioFrame.from_ndarray(
                silence.astype(np.int16)[:1].repeat(2, 1), format="s16", layout="stereo"
            )
            frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
            converted = av.AudioResampler(format=stream.format.name, layout="stereo", rate=48_000).resample(frame)
            packets += [packet for one in converted for packet in stream.encode(one)]
        packets += stream.encode(None)
        if header is not None:
            stream.codec_context.extradata = header(stream.codec_context.extradata)
        for number, pixels in enumerate(pictures(10)):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux([*picture.encode(None), *packets])
    return path


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("aac", ".mp4"), ("libopus", ".webm"), ("libopus", ".mp4"), ("flac", ".mp4"), ("alac", ".mov")],
)
def test_nothing_beside_numbers_is_kept_of_a_header(tmp_path, codec, suffix):
    source = with_sound(tmp_path / f"in{suffix}", codec, lambda header: header + SECRET)
    plain = with_sound(tmp_path / f"plain{suffix}", codec)
    result = copy(source, tmp_path / f"out{suffix}", "keep")
    assert SECRET not in result.read_bytes()
    assert audio_packets(result) == audio_packets(plain)
    assert np.array_equal(sound(result)[0], sound(plain)[0])


def test_sound_whose_header_cannot_be_rebuilt_is_refused(tmp_path):
    source = with_sound(tmp_path / "in.webm", "vorbis")
    with pytest.raises(VideoError, match=r"vorbis.*--audio none"):
        check_audio(source, "keep", ".webm")
    check_audio(source, "none", ".webm")


def test_sound_of_an_unknown_codec_is_refused(tmp_path):
    source = with_sound(tmp_path / "in.mov", "alac")
    source.write_bytes(source.read_bytes().replace(b"alac", b"zzzz"))
    with pytest.raises(VideoError, match="--audio none"):
        check_audio(source, "keep", ".mp4")
    check_audio(source, "none", ".mp4")


def test_a_full_disk_is_not_an_error_of_the_video(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    source = write_clip(tmp_path / "in.mp4", pictures(), PTS)
    write_segment(tmp_path / "a.nut", read_frames(source), read_info(source), ".webm")
    with pytest.raises(OSError) as raised:
        join_segments(Path("/dev/full"), [tmp_path / "a.nut"], source, "none", ".webm")
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.MP4", ".mp4"), ("a.mov", ".mov"), ("a.webm", ".webm"), ("a.mkv", ".mp4")]
)
def test_kind_of_the_result(tmp_path, name, suffix):
    assert output_suffix(tmp_path / name) == suffix
