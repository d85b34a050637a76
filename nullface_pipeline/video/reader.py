"""Reading a video: what it is, and its frames upright, each with its time; or one sentence why not.

Whatever could show a face that nobody sees here refuses the file: frames that a decoder only guesses, a mirrored picture,
brightness that is not meant for eight bits.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nullface_pipeline.photo_records import PhotoRefusedError


# Transfer functions of high dynamic range, by their numbers in ITU-T H.273.
_HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}

# FFmpeg's name for a decoder that reports errors instead of painting over them.
_NO_CONCEALMENT = {"err_detect": "explode"}


class VideoError(PhotoRefusedError):
    """A video of which nothing is written. The message says why, and what to do."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, upright.

    Attributes:
        width, height (`int`): in pixels.
        time_base (`Fraction`): seconds in one unit of `Frame.pts`.
        rate (`Fraction`): frames a second, on average.
        pixel_aspect (`Fraction`): width over height of a pixel as it is shown.
        has_audio (`bool`): whether there is sound.
        deep (`bool`): whether it has more than eight bits a channel.
    """

    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    pixel_aspect: Fraction
    has_audio: bool
    deep: bool


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        pixels (`np.ndarray`): (H, W, 3) uint8 RGB, upright.
        pts (`int`): when it is shown, in the video's `time_base`.
    """

    pixels: np.ndarray
    pts: int


def import_av() -> ModuleType:
    """PyAV, which only video needs.

    Raises:
        VideoError: if it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise VideoError("Video needs PyAV: pip install 'nullface-pipeline[video]'.") from error
    return av


def read_info(path: Path) -> VideoInfo:
    """What a video is.

    Raises:
        VideoError: if it is none, or one that is refused.
    """
    with open_input(path) as container:
        stream = _video_stream(container)
        context = stream.codec_context
        first = next(_decoded(container, stream), None)
        if first is None:
            raise VideoError("It shows no frame: the file is empty or damaged.")
        turned = _quarter_turns(first) % 2 == 1
        aspect = Fraction(context.sample_aspect_ratio or 1) or Fraction(1)
        size = (first.height, first.width) if turned else (first.width, first.height)
        return VideoInfo(
            *size,
            time_base=Fraction(stream.time_base),
            rate=Fraction(stream.average_rate or stream.guessed_rate or 25),
            pixel_aspect=1 / aspect if turned else aspect,
            has_audio=bool(container.streams.audio),
            deep=max(component.bits for component in first.format.components) > 8,
        )


def read_frames(path: Path) -> Iterator[Frame]:
    """Every frame of a video, in the order in which they are shown; one at a time is held.

    Raises:
        VideoError: at a frame that cannot be decoded whole, has no time, or another size than the first.
    """
    with open_input(path) as container:
        stream = _video_stream(container)
        shape: tuple[int, ...] | None = None
        last: int | None = None
        for number, decoded in enumerate(_decoded(container, stream)):
            _check_frame(decoded, number, last)
            pixels = np.rot90(_to_rgb(decoded), _quarter_turns(decoded))
            if pixels.shape != (shape := shape or pixels.shape):
                raise VideoError(f"Its frames change their size at frame {number}: encode it again in one size first.")
            last = decoded.pts
            yield Frame(np.ascontiguousarray(pixels), decoded.pts)


@contextlib.contextmanager
def open_input(path: Path) -> Iterator[Any]:
    """A container of PyAV for reading; what FFmpeg says of it is a `VideoError`."""
    av = import_av()
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            yield container
    except FileNotFoundError as error:
        raise VideoError("It does not exist.") from error
    except av.error.FFmpegError as error:
        # A full disk, say, which is no matter of this file.
        if isinstance(error, OSError):
            raise
        raise VideoError(
            f"It is no video that can be read, or damaged ({error.strerror}): encode it again first, with a player or editor "
            "that shows all of it."
        ) from error


def _video_stream(container: Any) -> Any:
    """The stream that is shown: the first that is no cover picture. The others are dropped."""
    covers = 0x0400 | 0x0800  # attached_pic, timed_thumbnails
    streams = [stream for stream in container.streams.video if not int(stream.disposition) & covers]
    if not streams:
        raise VideoError("It holds no video.")
    stream = streams[0]
    stream.codec_context.options = _NO_CONCEALMENT
    # In threads of its own for each slice, FFmpeg forgets the errors; with one for each frame it reports them.
    stream.codec_context.thread_type = "FRAME"
    return stream


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise VideoError(_UNDECODABLE)
        yield from packet.decode()


_UNDECODABLE = (
    "A frame is damaged and cannot be decoded whole; what a player would show there, nobody has looked at. Encode it again "
    "first, or cut that part out."
)


def _check_frame(decoded: Any, number: int, last: int | None) -> None:
    if decoded.is_corrupt:
        raise VideoError(_UNDECODABLE)
    if decoded.pts is None or (last is not None and decoded.pts <= last):
        raise VideoError(f"Frame {number} has no time of its own: write it to an MP4 file again first.")
    high_range = _HIGH_DYNAMIC_RANGE.get(int(decoded.color_trc))
    if high_range is not None:
        raise VideoError(
            f"It has a high dynamic range ({high_range}), which eight bits cannot show: convert it to SDR first, for "
            "example with HandBrake or with FFmpeg's filters zscale and tonemap."
        )


def _quarter_turns(decoded: Any) -> int:
    """How often the frame has to be turned to the left to be upright.

    Raises:
        VideoError: if that is not all that it takes.
    """
    if "DISPLAYMATRIX" in decoded.side_data:
        a, b, _, c, d, *_ = np.frombuffer(bytes(decoded.side_data["DISPLAYMATRIX"]), dtype=np.int32).astype(float)
        if a * d - b * c <= 0:
            raise VideoError("Its picture is to be shown mirrored: encode it again as it is shown first.")
    if decoded.rotation % 90:
        raise VideoError(f"Its picture is to be shown turned by {decoded.rotation}°: encode it again upright first.")
    return int(decoded.rotation) // 90


def _to_rgb(decoded: Any) -> np.ndarray:
    """(H, W, 3) uint8; ITU-R BT.709 or 601, limited or full range, as the frame says."""
    return np.asarray(decoded.to_ndarray(format="rgb24"))
