"""A visitor's short video: read from its upload into memory, anonymized in a folder that goes at once, and shown."""

import contextlib
import html
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from page_parts import data_url

from nullface_pipeline.photo_records import PhotoOptions
from nullface_pipeline.video import (
    VideoError,
    VideoReport,
    Work,
    anonymize_video,
    link_video,
    output_suffix,
    read_info,
)
from nullface_pipeline.video.reader import open_input


MAX_SECONDS = 30

# More pixels than those of full HD.
MAX_CLIP_PIXELS = 2_100_000

MIME_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".webm": "video/webm"}


@dataclass(frozen=True)
class OpenClip:
    """One video of one visitor, in memory only.

    Attributes:
        name (`str`): of the file.
        data (`bytes`): the file.
    """

    name: str
    data: bytes


def open_clip(path: Path) -> OpenClip:
    """Read an uploaded file, and delete it whatever happens.

    Raises:
        VideoError: if it is no video, or too long or too large.
    """
    try:
        info = read_info(path)
        if info.width * info.height > MAX_CLIP_PIXELS:
            raise VideoError(f"It has {info.width} × {info.height} pixels: make it full HD or smaller first.")
        if seconds(path) > MAX_SECONDS:
            raise VideoError(f"It is longer than {MAX_SECONDS} seconds: cut it first.")
        return OpenClip(path.name, path.read_bytes())
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
            path.parent.rmdir()


def seconds(path: Path) -> float:
    """From the first frame to the last, counted, because what the file says of its length may be wrong."""
    with open_input(path) as container:
        times = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.pts is not None]
    return float(max(times) - min(times)) if times else 0.0


def anonymize_clip(
    pipe: Any, clip: OpenClip, options: PhotoOptions, tell: Callable[[str, int, int | None], None]
) -> str:
    """HTML of the clip before and after, with a download.

    Raises:
        PhotoRefusedError: if nothing can be shown.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"clip{Path(clip.name).suffix}"
        source.write_bytes(clip.data)
        output = Path(folder) / f"result{output_suffix(source)}"
        work = Work(Path(folder) / "work", made_from="", seed=secrets.randbits(62))
        linked = link_video(pipe.face_analyser, source, work, tell)
        report = anonymize_video(pipe, linked, output, options, work, tell=tell)
        return show_clip(clip, output.suffix, output.read_bytes(), report)


def show_clip(clip: OpenClip, suffix: str, result: bytes, report: VideoReport) -> str:
    """HTML of a clip and its result, one above the other."""
    name = html.escape(f"{Path(clip.name).stem}-anonymized{suffix}", quote=True)
    before = data_url(clip.data, MIME_TYPES.get(Path(clip.name).suffix.lower(), "video/mp4"))
    after = data_url(result, MIME_TYPES[suffix])
    return (
        f'<h2>Result</h2><video class="clip" controls loop muted src="{after}" aria-label="Anonymized clip"></video>'
        f'<h3>Before</h3><video class="clip" controls loop muted src="{before}" aria-label="Your clip, before"></video>'
        f"<p>{describe_clip(report)}</p>"
        f'<a class="download" download="{name}" href="{after}">Download the clip</a>'
        "<p>Without sound and metadata, marked as edited by AI. The judge is a program: look at all of it before you "
        "publish it.</p>"
    )


def describe_clip(report: VideoReport) -> str:
    """What was done, in plain words."""
    replaced = f"Faces were replaced {report.anonymized + report.gaps} times in {report.frames} frames"
    if not report.patched_frames:
        return f"{replaced}; nothing had to be covered."
    return f"{replaced}; in {report.patched_frames} frames something is covered by a patch."
