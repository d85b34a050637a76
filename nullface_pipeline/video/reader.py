"""Video decoding: properties of a video, and its frames upright and with square pixels.

A file is refused if a player may show something other than the decoded frames: damaged or missing
frames, a mirrored picture, high dynamic range. FFmpeg reads from an open file and never receives a
path or a URL.
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


# Transfer functions of high dynamic range, by their code in ITU-T H.273.
_HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}

# Options of a decoder that reports errors instead of concealing them.
_NO_CONCEALMENT = {"err_detect": "explode"}

# FFmpeg's names of self-contained formats; a playlist refers to other files. NUT is for segments.
_CONTAINERS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "nut")

# Containers whose header states the duration, and its tolerance in seconds.
_DECLARE_DURATION = ("matroska", "avi", "flv", "asf")
_DURATION_TOLERANCE = 1.0

# Highest ratio of the sides of a pixel.
_MAX_PIXEL_ASPECT = 4


class VideoError(PhotoRefusedError):
    """Refusal of a video. The message states the reason and the remedy."""


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video.

    Attributes:
        width, height (`int`): size of a frame in square pixels, upright.
        time_base (`Fraction`): seconds in one unit of `Frame.pts`.
        rate (`Fraction`): average number of frames per second.
    """

    width: int
    height: int
    time_base: Fraction
    rate: Fraction


@dataclass(frozen=True, eq=False)
class Frame:
    """Decoded frame.

    Attributes:
        pixels (`np.ndarray`): (H, W, 3) uint8 RGB, upright, square pixels.
        pts (`int`): presentation time, in units of the video's `time_base`.
    """

    pixels: np.ndarray
    pts: int


def import_av() -> ModuleType:
    """Import PyAV, an optional dependency.

    Raises:
        VideoError: if it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise VideoError("Video needs PyAV: pip install 'nullface-pipeline[video]'.") from error
    # torchvision 0.20 turns the log on. A decoder's thread that logs waits for Python's lock, and
    # closing a damaged file holds the lock while it waits for the thread.
    av.logging.set_level(None)
    return av


def read_info(path: Path) -> VideoInfo:
    """Read the properties of a video.

    Raises:
        VideoError: if the file is not a video, or of an unsupported kind.
    """
    with open_input(path) as container:
        stream = _video_stream(container)
        first = next(_decoded(container, stream), None)
        if first is None:
            raise VideoError("It has no frames: the file is empty or damaged.")
        width, height = _shown_size(first, stream)
        size = (height, width) if _quarter_turns(first) % 2 == 1 else (width, height)
        return VideoInfo(
            *size,
            time_base=stream.time_base or Fraction(1, 1000),
            rate=Fraction(stream.average_rate or stream.guessed_rate or 25),
        )


def read_frames(path: Path) -> Iterator[Frame]:
    """Yield every frame of a video in presentation order.

    Raises:
        VideoError: if a frame is damaged, has no time, or another size than the first.
    """
    with open_input(path) as container:
        stream = _video_stream(container)
        shape: tuple[int, ...] | None = None
        last: int | None = None
        for number, decoded in enumerate(_decoded(container, stream)):
            last = _checked_pts(decoded, number, last)
            pixels = np.rot90(_to_rgb(decoded, stream), _quarter_turns(decoded))
            if pixels.shape != (shape := shape or pixels.shape):
                raise VideoError(f"The frame size changes at frame {number}: re-encode the video in one size first.")
            yield Frame(np.ascontiguousarray(pixels), last)


@contextlib.contextmanager
def open_input(path: Path) -> "Iterator[InputContainer]":
    """Open a video as a PyAV container. Errors of FFmpeg in the block become `VideoError`.

    Raises:
        VideoError: if the file is missing, incomplete, damaged, or not a supported container.
        OSError: if the file cannot be read.
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
    "It is not a readable MP4, MOV, WebM, MKV, AVI, MPEG, FLV, WMV or Ogg video ({}). It may be damaged, or a "
    "playlist, which is not accepted. Convert videos of other formats to MP4 first."
)

_INCOMPLETE = "It is shorter than its header states: copy it again from a complete source, or convert it to MP4 first."


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise VideoError("It does not exist.") from error
    except PermissionError as error:
        raise VideoError("It cannot be opened: check its permissions.") from error


def _declared_end(file: BinaryIO) -> int:
    """Length in bytes that an AVI, Matroska or WebM header declares; 0 if it declares none."""
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
    """EBML length at `start`, `None` if it is unknown, and the offset of its end."""
    width = 9 - head[start].bit_length() if start < len(head) else 9
    digits = head[start : start + width]
    if width > 8 or len(digits) < width:
        return None, start
    limit = 1 << (7 * width)
    length = int.from_bytes(digits, "big") & (limit - 1)
    return None if length == limit - 1 else length, start + width


def _video_stream(container: "InputContainer") -> "VideoStream":
    """First video stream that is not a cover picture. Other streams are dropped."""
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        raise VideoError("It does not contain a video.")
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError("Its video codec is not supported: convert it to H.264 first.")
    stream.codec_context.options = _NO_CONCEALMENT
    # With slice threads FFmpeg does not report errors; with frame threads it does.
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
    "A frame is damaged and cannot be verified, because players may show it differently. Re-encode the video first, "
    "or cut that part out."
)


def _checked_pts(decoded: "VideoFrame", number: int, last: int | None) -> int:
    """Presentation time of a frame, checked to be later than `last`.

    Raises:
        VideoError: if the frame is damaged, has no later time, or a high dynamic range.
    """
    if decoded.is_corrupt:
        raise VideoError(_UNDECODABLE)
    if decoded.pts is None or (last is not None and decoded.pts <= last):
        raise VideoError(f"Frame {number} has no valid presentation time: convert the video to MP4 first.")
    high_range = _HIGH_DYNAMIC_RANGE.get(int(decoded.color_trc))
    if high_range is not None:
        raise VideoError(
            f"High dynamic range ({high_range}) is not supported: convert it to SDR first, for example with HandBrake "
            "or with FFmpeg's filters zscale and tonemap."
        )
    return decoded.pts


def _quarter_turns(decoded: "VideoFrame") -> int:
    """Number of quarter turns to the left that make the frame upright.

    Raises:
        VideoError: if the frame is mirrored, or rotated by another angle.
    """
    if "DISPLAYMATRIX" in decoded.side_data:
        # PyAV's stubs list other kinds of side data only.
        matrix = bytes(decoded.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item]
        a, b, _, c, d, *_ = np.frombuffer(matrix, dtype=np.int32).astype(float)
        if a * d - b * c <= 0:
            raise VideoError("Its metadata mirrors the picture: re-encode it first, with the mirroring applied.")
    if decoded.rotation % 90:
        raise VideoError(f"Its metadata rotates the picture by {decoded.rotation}°: re-encode it upright first.")
    return int(decoded.rotation) // 90


def _shown_size(decoded: "VideoFrame", stream: "VideoStream") -> tuple[int, int]:
    """Width and height in square pixels, before rotation; the shorter pixel side is stretched."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    if not 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT:
        raise VideoError(f"Its pixel aspect ratio is {float(aspect):g}: re-encode it with square pixels first.")
    return round(decoded.width * max(aspect, Fraction(1))), round(decoded.height * max(1 / aspect, Fraction(1)))


def _to_rgb(decoded: "VideoFrame", stream: "VideoStream") -> np.ndarray:
    """(H, W, 3) uint8 RGB with square pixels, by the colour matrix and range of the frame."""
    width, height = _shown_size(decoded, stream)
    return np.asarray(decoded.to_ndarray(format="rgb24", width=width, height=height))
