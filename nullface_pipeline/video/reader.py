"""Video decoding: properties of a video, and its frames as a player shows them: upright, with square pixels.

A file is refused if a player may show something other than the decoded frames: damaged or missing frames, a mirrored
picture, high dynamic range. FFmpeg reads from an open file and never receives a path or a URL.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from nullface_pipeline.photo_records import PhotoRefusedError


if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream


# Transfer functions of high dynamic range, by their numbers in ITU-T H.273.
_HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}

# FFmpeg's name for a decoder that reports errors instead of painting over them.
_NO_CONCEALMENT = {"err_detect": "explode"}

# FFmpeg's names of containers that hold all of a video. A playlist would have it open other files. NUT is for segments.
_CONTAINERS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "nut")

# Containers whose duration is read from the header and not estimated from the last packets, and seconds it may be off.
_DECLARE_DURATION = ("matroska", "avi", "flv", "asf")
_DURATION_TOLERANCE = 1.0

# Pixels wider or higher than this many times the other side are refused.
_MAX_PIXEL_ASPECT = 4


class VideoError(PhotoRefusedError):
    """A video of which nothing is written. The message says why, and what to do."""


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video, as it is shown.

    Attributes:
        width, height (`int`): in square pixels, upright.
        time_base (`Fraction`): seconds in one unit of `Frame.pts`.
        rate (`Fraction`): frames a second, on average.
    """

    width: int
    height: int
    time_base: Fraction
    rate: Fraction


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        pixels (`np.ndarray`): (H, W, 3) uint8 RGB, upright, square pixels.
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
        first = next(_decoded(container, stream), None)
        if first is None:
            raise VideoError("It shows no frame: the file is empty or damaged.")
        width, height = _shown_size(first, stream)
        size = (height, width) if _quarter_turns(first) % 2 == 1 else (width, height)
        return VideoInfo(
            *size,
            time_base=stream.time_base or Fraction(1, 1000),
            rate=Fraction(stream.average_rate or stream.guessed_rate or 25),
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
            last = _checked_pts(decoded, number, last)
            pixels = np.rot90(_to_rgb(decoded, stream), _quarter_turns(decoded))
            if pixels.shape != (shape := shape or pixels.shape):
                raise VideoError(f"Its frames change their size at frame {number}: encode it again in one size first.")
            yield Frame(np.ascontiguousarray(pixels), last)


@contextlib.contextmanager
def open_input(path: Path) -> "Iterator[InputContainer]":
    """Open a video as a PyAV container. Errors of FFmpeg in the block become `VideoError`.

    Raises:
        VideoError: if the file is missing, incomplete, damaged, or not a container that holds all of its video.
        OSError: if the disk fails.
    """
    av = import_av()
    limits = {"format_whitelist": ",".join(_CONTAINERS), "protocol_whitelist": "none"}
    with _open_file(path) as file:
        if _declared_end(file) > file.seek(0, 2):
            raise VideoError(_INCOMPLETE)
        file.seek(0)
        try:
            with av.open(file, metadata_errors="ignore", container_options=limits) as container:
                if container.format.name.split(",")[0] not in _CONTAINERS:
                    raise VideoError(_UNREADABLE.format(container.format.name))
                yield container
        except av.error.FFmpegError as error:
            raise VideoError(_UNREADABLE.format(error.strerror)) from error


_UNREADABLE = (
    "It is not a readable MP4, MOV, WebM, MKV, AVI, MPEG, FLV, WMV or Ogg video, or it is damaged ({}): convert it to MP4 "
    "first."
)

_INCOMPLETE = (
    "Its file ends before the video does: copy it again from where it is complete, or convert it to MP4 first."
)


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise VideoError("It does not exist.") from error
    except PermissionError as error:
        raise VideoError("It cannot be opened: check its permissions.") from error


def _declared_end(file: BinaryIO) -> int:
    """Length of the file by the header of AVI, Matroska or WebM; 0 where the header does not say."""
    head = file.read(4096)
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] == b"\x1aE\xdf\xa3":
        length, start = _ebml_size(head, 4)
        segment = start + (length or 0)
        if head[segment : segment + 4] == b"\x18S\x80g":
            length, start = _ebml_size(head, segment + 4)
            return 0 if length is None else start + length
    return 0


def _ebml_size(head: bytes, start: int) -> tuple[int | None, int]:
    """A length in Matroska, None if it is unknown, and where it ends."""
    width = 9 - head[start].bit_length() if start < len(head) else 9
    digits = head[start : start + width]
    if width > 8 or len(digits) < width:
        return None, start
    limit = 1 << (7 * width)
    length = int.from_bytes(digits, "big") & (limit - 1)
    return None if length == limit - 1 else length, start + width


def _video_stream(container: "InputContainer") -> "VideoStream":
    """The stream that is shown: the first that is not a cover picture. The others are dropped."""
    covers = 0x0400 | 0x0800  # attached_pic, timed_thumbnails
    streams = [stream for stream in container.streams.video if not int(stream.disposition) & covers]
    if not streams:
        raise VideoError("It holds no video.")
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError("Its picture has a codec that cannot be decoded: convert it to H.264 first.")
    stream.codec_context.options = _NO_CONCEALMENT
    # In threads of its own for each slice, FFmpeg forgets the errors; with one for each frame it reports them.
    stream.codec_context.thread_type = "FRAME"
    return stream


def _decoded(container: "InputContainer", stream: "VideoStream") -> "Iterator[VideoFrame]":
    end = 0.0
    # The duration of the container is that of its longest stream.
    for packet in container.demux():
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index != stream.index:
            continue
        if packet.is_corrupt:
            raise VideoError(_UNDECODABLE)
        yield from stream.decode(packet)
    declared = (container.duration or 0) / 1e6
    if container.format.name.split(",")[0] in _DECLARE_DURATION and end < declared - _DURATION_TOLERANCE:
        raise VideoError(_INCOMPLETE)


_UNDECODABLE = (
    "A frame is damaged and cannot be decoded whole; what a player would show there, nobody has looked at. Encode it again "
    "first, or cut that part out."
)


def _checked_pts(decoded: "VideoFrame", number: int, last: int | None) -> int:
    """Time of a frame that follows one of time `last`.

    Raises:
        VideoError: if the frame is damaged, has no later time, or a high dynamic range.
    """
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
    return decoded.pts


def _quarter_turns(decoded: "VideoFrame") -> int:
    """How often the frame has to be turned to the left to be upright.

    Raises:
        VideoError: if that is not all that it takes.
    """
    if "DISPLAYMATRIX" in decoded.side_data:
        # PyAV's stubs list other kinds of side data only.
        matrix = bytes(decoded.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item]
        a, b, _, c, d, *_ = np.frombuffer(matrix, dtype=np.int32).astype(float)
        if a * d - b * c <= 0:
            raise VideoError("Its picture is to be shown mirrored: encode it again as it is shown first.")
    if decoded.rotation % 90:
        raise VideoError(f"Its picture is to be shown turned by {decoded.rotation}°: encode it again upright first.")
    return int(decoded.rotation) // 90


def _shown_size(decoded: "VideoFrame", stream: "VideoStream") -> tuple[int, int]:
    """Width and height in square pixels, before any rotation; the shorter side of a pixel is stretched."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    if not 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT:
        raise VideoError(
            f"Its pixels are shown {float(aspect):g} times as wide as high: encode it with square pixels first."
        )
    return round(decoded.width * max(aspect, Fraction(1))), round(decoded.height * max(1 / aspect, Fraction(1)))


def _to_rgb(decoded: "VideoFrame", stream: "VideoStream") -> np.ndarray:
    """(H, W, 3) uint8 with square pixels; ITU-R BT.709 or 601, limited or full range, as the frame says."""
    width, height = _shown_size(decoded, stream)
    return np.asarray(decoded.to_ndarray(format="rgb24", width=width, height=height))
