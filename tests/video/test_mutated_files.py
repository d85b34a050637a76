"""Damaged video files, through reading and writing: each is refused in one sentence, or its frames
come out.
"""

from fractions import Fraction

import numpy as np
import pytest

from nullface_pipeline.runs.atomic_files import whole_file
from nullface_pipeline.video.reader import VideoError, read_frames, read_info
from nullface_pipeline.video.writer import check_audio, join_segments, output_suffix, write_segment

from .clips import MILLISECOND, write_clip


pytest.importorskip("av")


CODECS = {".mp4": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4"}


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed anywhere, in the header, cut off, inserted, or set to zero."""
    data, size = bytearray(content), len(content)
    kind, place = rng.integers(5), int(rng.integers(size))
    if kind == 0:
        for where in rng.integers(size, size=10):
            data[where] ^= 0x55
    elif kind == 1:
        for where in rng.integers(700, size=5):
            data[where] = rng.integers(256)
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        data[place:place] = rng.bytes(300)
    else:
        data[place : place + 300] = bytes(len(data[place : place + 300]))
    return bytes(data)


@pytest.mark.parametrize("suffix", CODECS)
def test_a_damaged_file_is_refused_or_written_whole(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3), dtype=np.uint8)
    pts, base = (list(range(6)), Fraction(1, 25)) if suffix == ".avi" else ([40 * n for n in range(6)], MILLISECOND)
    source = write_clip(tmp_path / f"in{suffix}", noise, pts, base, codec=CODECS[suffix], sound=suffix != ".webm")
    content, rng = source.read_bytes(), np.random.default_rng(1)
    kind, refused = output_suffix(source), 0
    result, segment = tmp_path / f"out{kind}", tmp_path / "0.nut"
    for audio in ("none", "keep") * 3:
        source.write_bytes(mutated(content, rng))
        result.unlink(missing_ok=True)
        try:
            check_audio(source, audio, kind)
            frames = list(read_frames(source))
            write_segment(segment, frames, read_info(source), kind)
            with whole_file(result) as temporary:
                join_segments(temporary, [segment], source, audio, kind)
            assert len(list(read_frames(result))) == len(frames)
        except VideoError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1
            assert {path.name for path in tmp_path.iterdir()} <= {source.name, segment.name}
    assert refused
