"""Video encoding: segments one by one, then joined to one file, with or without audio.

The file contains one video stream, at most one audio stream, and times. Other content of the
original is not copied: location, title, chapters, subtitles and cover pictures.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nullface_pipeline.photo_files import DIGITAL_SOURCE_TYPE, VIDEO_TYPES
from nullface_pipeline.video.audio_headers import rebuilt_header
from nullface_pipeline.video.reader import Frame, VideoError, VideoInfo, import_av, open_input


if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream


@dataclass(frozen=True)
class OutputFormat:
    """Container and video encoder of a result, by FFmpeg's names."""

    container: str
    encoder: str
    options: Mapping[str, str]


# No B-frames or alternate reference frames, so that segments can be joined and times stay exact.
_MP4 = OutputFormat("mp4", "libx264", {"crf": "18", "preset": "medium"})
_VP9 = {"crf": "24", "b": "0", "lag-in-frames": "0", "auto-alt-ref": "0", "row-mt": "1", "cpu-used": "4"}
_FORMATS = {
    "video/mp4": _MP4,
    "video/quicktime": replace(_MP4, container="mov"),
    "video/webm": OutputFormat("webm", "libvpx-vp9", _VP9),
}
FORMATS = {suffix: _FORMATS[kind] for suffix, kind in VIDEO_TYPES.items() if kind in _FORMATS}

# Audio codecs that each container can hold.
_COPIED_AUDIO = {"webm": ("opus",), "mp4": ("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac")}
_COPIED_AUDIO["mov"] = (*_COPIED_AUDIO["mp4"], "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_f32le")

AUDIO = ("none", "keep")

# FFmpeg's codes of ITU-R BT.709 and of the limited range.
_BT709, _LIMITED = 1, 1


def output_suffix(source: Path) -> str:
    """Suffix of the result: that of the source if it is one of `FORMATS`, else `.mp4`."""
    return source.suffix.lower() if source.suffix.lower() in FORMATS else ".mp4"


def write_segment(path: Path, frames: Iterable[Frame], info: VideoInfo, suffix: str) -> None:
    """Encode frames as one segment, in a NUT container, which keeps times exactly.

    Args:
        frames (`Iterable[Frame]`): frames with their times in the video.
        suffix (`str`): suffix of the result, one of `FORMATS`.
    """
    av = import_av()
    output = FORMATS[suffix]
    with av.open(_url(path), "w", format="nut") as container:
        stream = container.add_stream(output.encoder, rate=info.rate, options=dict(output.options))
        stream.width, stream.height = even(info.width), even(info.height)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = stream.time_base = info.time_base
        context.max_b_frames = 0
        context.sample_aspect_ratio = 1
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        for frame in frames:
            encoded = av.VideoFrame.from_ndarray(_evenly_sized(frame.pixels), format="rgb24")
            encoded = encoded.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            encoded.pts, encoded.time_base = frame.pts, info.time_base
            container.mux(stream.encode(encoded))
        container.mux(stream.encode())


def _url(path: Path) -> str:
    """File URL: FFmpeg treats a path with a colon as a URL."""
    return f"file:{path}"


def even(length: int) -> int:
    """Round a side up to an even length, which 4:2:0 chroma subsampling requires."""
    return length + length % 2


def _evenly_sized(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return pixels
    return np.pad(pixels, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")


def join_segments(path: Path, segments: Sequence[Path], original: Path, audio: str, suffix: str) -> None:
    """Join segments to one file without encoding them again.

    Args:
        path (`Path`): file to write, of any name.
        original (`Path`): source of the audio.
        audio (`str`): "none", or "keep" to copy the packets.
        suffix (`str`): suffix of the result, one of `FORMATS`.

    Raises:
        VideoError: if the audio codec cannot be copied.
    """
    av = import_av()
    container_format = FORMATS[suffix].container
    fast_start = {"movflags": "+faststart"} if suffix != ".webm" else {}
    with (
        av.open(_url(path), "w", format=container_format, options=fast_start) as output,
        open_input(original) as input,
    ):
        output.metadata["comment"] = DIGITAL_SOURCE_TYPE
        with open_input(segments[0]) as first:
            template = first.streams.video[0]
            stream = output.add_stream_from_template(template)
            stream.time_base = template.time_base
        packets = [_video_packets(segments, stream)]
        source = next(iter(input.streams.audio), None)
        if audio == "keep" and source is not None:
            header = _check_copied(source, container_format)
            copied = output.add_stream_from_template(source)
            copied.codec_context.extradata = header
            packets.append(_copied_audio(input, source, copied))
        for packet in heapq.merge(*packets, key=lambda packet: Fraction((packet.dts or 0) * packet.time_base)):
            _mux(output, packet)


def _mux(output: "OutputContainer", packet: "Packet") -> None:
    """Write a packet. A full disk raises `OSError`, because it is not an error of the video."""
    av = import_av()
    try:
        output.mux(packet)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror) from error
        raise


def check_audio(path: Path, audio: str, suffix: str) -> None:
    """Check that the audio of a video can be copied; raises as `join_segments`."""
    if audio == "keep":
        with open_input(path) as input:
            for source in input.streams.audio[:1]:
                _check_copied(source, FORMATS[suffix].container)


def _check_copied(source: "AudioStream", container_format: str) -> bytes | None:
    """Header of the copied audio; raises `VideoError` if it cannot be copied."""
    if source.codec_context is None:
        raise VideoError("Its audio codec is unknown: use --audio none.")
    name = source.codec_context.name.removesuffix("float")
    kind = container_format.upper()
    if name not in _COPIED_AUDIO[container_format]:
        raise VideoError(f"Its audio ({name}) cannot be copied into a {kind} file: use --audio none.")
    try:
        return rebuilt_header(name, source.codec_context.extradata)
    except ValueError as error:
        raise VideoError(
            f"Its audio ({name}) has a header that may contain other data, so it is not copied: use --audio none."
        ) from error


def _video_packets(segments: Sequence[Path], stream: "VideoStream") -> "Iterator[Packet]":
    for segment in segments:
        with open_input(segment) as input:
            for packet in input.demux(video=0):
                # The last packet of a file is an empty flush packet.
                if packet.dts is not None:
                    packet.stream = stream
                    yield packet


def _copied_audio(input: "InputContainer", source: "AudioStream", stream: "AudioStream") -> "Iterator[Packet]":
    av = import_av()
    for packet in input.demux(source):
        if packet.dts is not None:
            # Rebuilt, because a packet may carry side data, such as a new header.
            copied = av.Packet(bytes(packet))
            copied.pts, copied.dts, copied.duration = packet.pts, packet.dts, packet.duration
            copied.time_base, copied.is_keyframe, copied.stream = packet.time_base, True, stream
            if packet.has_sidedata("skip_samples"):
                packet.get_sidedata("skip_samples").to_packet(copied)
            yield copied
