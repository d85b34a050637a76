"""Writing: pieces joined exactly, the sound as asked for, and nothing else of the original's container."""

from fractions import Fraction

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


def copy(source, target, audio="none", cut=4):
    """Through two pieces; returns the path of the result."""
    info = read_info(source)
    frames = list(read_frames(source))
    pieces = [target.parent / "0.nut", target.parent / "1.nut"]
    write_segment(pieces[0], frames[:cut], info, target.suffix)
    write_segment(pieces[1], frames[cut:], info, target.suffix)
    join_segments(target, pieces, source, audio, target.suffix)
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
    for audio in ("none", "keep", "pitch"):
        content = copy(source, tmp_path / "out.mp4", audio).read_bytes()
        assert not [secret for secret in [*SECRETS.values(), CHAPTER] if secret.encode() in content]
        assert b"compositeWithTrainedAlgorithmicMedia" in content
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert [stream.type for stream in container.streams] == ["video"] + ["audio"] * (audio != "none")
            assert not container.chapters()


def test_kept_sound_is_byte_for_byte_the_same(tmp_path):
    source = write_clip(tmp_path / "in.mp4", pictures(), PTS, sound=True)
    assert audio_packets(copy(source, tmp_path / "out.mp4", "keep")) == audio_packets(source)


def audio_packets(path):
    with av.open(str(path)) as container:
        return [(bytes(packet), packet.pts * packet.time_base) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_lowered_sound_is_lower_and_as_long(tmp_path, suffix):
    pts = [100 * number for number in range(20)]
    source = write_clip(tmp_path / "in.mp4", pictures(20), pts, sound=True)
    wave, rate = sound(copy(source, tmp_path / f"out{suffix}", "pitch"))
    loudest = np.abs(np.fft.rfft(wave)).argmax() * rate / len(wave)
    assert abs(loudest - 440 * 2 ** (-3 / 12)) < 6
    assert abs(len(wave) / rate - 2.0) < 0.1


def sound(path):
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    return np.concatenate([frame.to_ndarray().reshape(-1, frame.samples)[0] for frame in frames]), frames[
        0
    ].sample_rate


def test_sound_that_a_container_does_not_take_is_refused(tmp_path):
    source = write_clip(tmp_path / "in.mp4", pictures(), PTS, sound=True)
    check_audio(source, "keep", ".mp4")
    with pytest.raises(VideoError, match=r"aac\) cannot be copied into a WEBM file: use --audio pitch or none"):
        check_audio(source, "keep", ".webm")


def test_shape_of_pixels_is_kept(tmp_path):
    info = read_info(write_clip(tmp_path / "in.mp4", pictures(), PTS))
    wide = type(info)(**{**vars(info), "pixel_aspect": Fraction(4, 3)})
    write_segment(tmp_path / "a.nut", [Frame(pictures()[0], 0)], wide, ".mp4")
    join_segments(tmp_path / "a.mp4", [tmp_path / "a.nut"], tmp_path / "in.mp4", "none", ".mp4")
    assert read_info(tmp_path / "a.mp4").pixel_aspect == Fraction(4, 3)


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.MP4", ".mp4"), ("a.mov", ".mov"), ("a.webm", ".webm"), ("a.mkv", ".mp4")]
)
def test_kind_of_the_result(tmp_path, name, suffix):
    assert output_suffix(tmp_path / name) == suffix
