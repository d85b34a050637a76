"""A visitor's short video: reading the upload into memory, anonymization, and HTML."""

import contextlib
import html
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from page_parts import data_url
from uploads import check_clip, delete_upload

from nullface_pipeline.photo_files import VIDEO_TYPES
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.video import (
    VideoCheckpoint,
    VideoError,
    VideoReport,
    link_video,
    output_suffix,
    read_info,
    render_video,
)
from nullface_pipeline.video.linking import ProgressCallback, no_progress
from nullface_pipeline.video.reader import open_input


MAX_SECONDS = 30

# Slightly more than full HD.
MAX_CLIP_PIXELS = 2_100_000


@dataclass(frozen=True)
class OpenClip:
    """One video of one visitor, in memory only.

    Attributes:
        name (`str`): file name.
        data (`bytes`): content of the file.
    """

    name: str
    data: bytes

    @property
    def nbytes(self) -> int:
        return len(self.data)


@dataclass(frozen=True)
class ClipResult:
    """An anonymized video.

    Attributes:
        name (`str`): file name for the download.
        data (`bytes`): content of the file.
        report (`VideoReport`): numbers of replaced and covered faces.
    """

    name: str
    data: bytes
    report: VideoReport


def open_clip(path: Path) -> OpenClip:
    """Read an uploaded file and delete it, also in case of an error.

    Raises:
        VideoError: if it is not a video of a supported type, or too long or too large.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VideoError("The upload was deleted. Choose the file again.") from error
    finally:
        delete_upload(path)
    check_clip(path.name, data)
    with file_in_memory(data) as source:
        info = read_info(source)
        if info.width * info.height > MAX_CLIP_PIXELS:
            raise VideoError(f"It has {info.width} × {info.height} pixels. Scale it to full HD or smaller.")
        if duration(source) > MAX_SECONDS:
            raise VideoError(f"It is longer than {MAX_SECONDS} seconds. Cut it first.")
    return OpenClip(path.name, data)


@contextlib.contextmanager
def file_in_memory(data: bytes) -> Iterator[Path]:
    """Context with a path at which this process can read `data`.

    On Linux, the data stays in memory, also if the process is killed. Elsewhere it is a temporary
    file.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip"
            path.write_bytes(data)
            yield path
        return
    with os.fdopen(os.memfd_create("clip"), "wb") as file:
        file.write(data)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def duration(path: Path) -> float:
    """Seconds from the first to the last frame. The duration in the file's header may be wrong."""
    with open_input(path) as container:
        times = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.pts is not None]
    return float(max(times) - min(times)) if times else 0.0


def anonymize_clip(
    pipe: Any, clip: OpenClip, options: PhotoOptions, folder: Path, on_progress: ProgressCallback = no_progress
) -> ClipResult:
    """Anonymize every face of a clip.

    Args:
        folder (`Path`): folder for finished segments of the result. The original is not written.

    Raises:
        PhotoRefusedError: if the clip cannot be anonymized.
    """
    suffix = output_suffix(Path(clip.name))
    with tempfile.TemporaryDirectory(dir=folder) as name, file_in_memory(clip.data) as source:
        output = Path(name) / f"result{suffix}"
        checkpoint = VideoCheckpoint(Path(name) / "work", made_from="", seed=secrets.randbits(62))
        linked = link_video(pipe.face_analyser, source, checkpoint, on_progress)
        report = render_video(pipe, linked, output, options, checkpoint, on_progress=on_progress)
        return ClipResult(f"{Path(clip.name).stem}-anonymized{suffix}", output.read_bytes(), report)


def show_clip(clip: OpenClip, result: ClipResult) -> str:
    """HTML of a clip and its result, side by side on a wide page."""
    before = data_url(clip.data, VIDEO_TYPES[Path(clip.name).suffix.lower()])
    after = data_url(result.data, VIDEO_TYPES[Path(result.name).suffix])
    return (
        '<h2>Result</h2><div class="clips">'
        f'<figure><video class="clip" controls loop muted src="{before}" aria-label="Your clip, before"></video>'
        "<figcaption>Original</figcaption></figure>"
        f'<figure><video class="clip" controls loop muted src="{after}" aria-label="Anonymized clip"></video>'
        "<figcaption>Result</figcaption></figure></div>"
        f"<p>{describe_clip(result.report)}</p>"
        f'<a class="download" download="{html.escape(result.name, quote=True)}" href="{after}">Download the clip</a>'
        "<p>The clip has no sound and no metadata, and is marked as edited by AI. Verification is automatic and can "
        "fail. Watch the whole clip before you publish it.</p>"
    )


def describe_clip(report: VideoReport) -> str:
    """Summarize a report in one sentence."""
    replaced = f"Faces were replaced {report.replaced + report.gaps} times in {report.frames} frames"
    if not report.patched_frames:
        return f"{replaced}. No face was covered."
    return f"{replaced}. {report.patched_frames} frames contain a cover."
