"""Made clips: portraits under known motion, so that it is known in every frame where a face is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage import data


MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames and, for each, the true boxes of the faces in it.

    Attributes:
        frames (`np.ndarray`): (N, H, W, 3) uint8 RGB.
        boxes (`list[dict[str, np.ndarray]]`): for each frame, (4,) x0, y0, x1, y1 by the person's
            name; part of a box may lie outside.
        matrices (`list[dict[str, np.ndarray]]`): the same, (2, 3) from the portrait to the frame.
        pts (`list[int]`): in milliseconds.
    """

    frames: np.ndarray
    boxes: list[dict[str, np.ndarray]] = field(default_factory=list)
    matrices: list[dict[str, np.ndarray]] = field(default_factory=list)
    pts: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Portrait:
    """A picture with one face.

    Attributes:
        pixels (`np.ndarray`): (h, w, 3) uint8 RGB.
        box (`np.ndarray`): (4,) of the face.
    """

    pixels: np.ndarray
    box: np.ndarray


def astronaut() -> Portrait:
    """Of scikit-image, in the public domain."""
    return Portrait(np.ascontiguousarray(data.astronaut()[0:260, 100:350]), np.array([79.0, 65.0, 169.0, 195.0]))


# x, y of the face's centre, its height in pixels, its tilt in degrees.
Motion = Callable[[float], tuple[float, float, float, float]]


def draw(frame: np.ndarray, portrait: Portrait, x: float, y: float, height: float, tilt: float) -> np.ndarray:
    """Paste a portrait into a frame, in place, by an ellipse around its head; returns the matrix
    from there.
    """
    centre = (portrait.box[:2] + portrait.box[2:]) / 2.0
    size = portrait.box[2:] - portrait.box[:2]
    scale = height / size[1]
    matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), tilt, scale)
    matrix[:, 2] += np.array([x, y]) - centre
    shape = frame.shape[1::-1]
    weight = cv2.warpAffine(head_mask(portrait), matrix, shape)[..., None]
    face = cv2.warpAffine(portrait.pixels, matrix, shape, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    frame[:] = np.rint(frame + weight * (face - frame)).astype(np.uint8)
    return matrix


def head_mask(portrait: Portrait) -> np.ndarray:
    """(h, w) float32 in [0, 1]: an ellipse around the head, which is what `draw` pastes."""
    centre = (portrait.box[:2] + portrait.box[2:]) / 2.0
    size = portrait.box[2:] - portrait.box[:2]
    mask: np.ndarray = np.zeros(portrait.pixels.shape[:2], dtype=np.float32)
    axes = (float(min(0.95 * size[0], mask.shape[1] / 2)), float(0.95 * size[1]))
    cv2.ellipse(mask, (int(centre[0]), int(centre[1])), (int(axes[0]), int(axes[1])), 0, 0, 360, 1.0, -1)
    return cv2.GaussianBlur(mask, (0, 0), 4)


def moved_box(box: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(4,) the box around a box that a (2, 3) matrix moves."""
    x0, y0, x1, y1 = box
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def background(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft colours without anything that looks like a face."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(60, 190, 3)
    coarse = (colour + rng.integers(-25, 25, (4, 6, 3))).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def make_clip(
    people: dict[str, tuple[Portrait, Motion]],
    count: int,
    size: tuple[int, int] = (180, 240),
    fps: float = 8.0,
    noise: float = 2.0,
    change: Callable[[int, np.ndarray], np.ndarray] | None = None,
    seed: int = 0,
    scene: np.ndarray | None = None,
) -> Clip:
    """Move portraits before a background.

    Args:
        people (`dict`): by name, a portrait and where it is at each moment (in seconds); NaN where
            it is not there. Who comes later is in front.
        change (`Callable`, *optional*): what else happens to a frame: a bar, a blur.
        scene (`np.ndarray`, *optional*): (H, W, 3) uint8 picture behind the people, soft colours by
            default.
    """
    rng = np.random.default_rng(seed)
    frames, boxes, matrices = [], [], []
    for number in range(count):
        frame = background(*size, seed=seed) if scene is None else scene.copy()
        true: dict[str, np.ndarray] = {}
        moved: dict[str, np.ndarray] = {}
        for name, (portrait, motion) in people.items():
            place = motion(number / fps)
            if np.isfinite(place).all():
                moved[name] = draw(frame, portrait, *place)
                true[name] = moved_box(portrait.box, moved[name])
        if change is not None:
            frame = change(number, frame)
        noisy = frame + rng.normal(0.0, noise, frame.shape)
        frames.append(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
        boxes.append({name: box for name, box in true.items() if shows(box, size)})
        matrices.append({name: moved[name] for name in boxes[-1]})
    pts = [round(1000 * number / fps) for number in range(count)]
    return Clip(np.stack(frames), boxes, matrices, pts)


def shows(box: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a tenth of a box lies in an (H, W) frame."""
    width = min(box[2], size[1]) - max(box[0], 0)
    height = min(box[3], size[0]) - max(box[1], 0)
    return bool(width > 0 and height > 0 and width * height > 0.1 * (box[2] - box[0]) * (box[3] - box[1]))


def sway(x: float, y: float, height: float, reach: float = 10.0, tilt: float = 5.0, zoom: float = 0.05) -> Motion:
    """A head that moves to and fro."""
    return lambda t: (
        x + reach * np.sin(2.1 * t),
        y + 0.5 * reach * np.sin(1.3 * t + 1),
        height * (1 + zoom * np.sin(1.7 * t)),
        tilt * np.sin(1.1 * t),
    )


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray] | np.ndarray,
    pts: Sequence[int],
    time_base: Fraction = MILLISECOND,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    colour: tuple[int, int] = (1, 1),
    sound: bool = False,
    metadata: dict[str, str] | None = None,
    chapter: str = "",
    rotation: int = 0,
    aspect: Fraction = Fraction(1),
) -> Path:
    """A video file of (H, W, 3) uint8 frames, with a tone for sound if asked for.

    Args:
        colour (`tuple[int, int]`): ITU-T H.273's numbers of the transfer function and of the
            primaries.
        aspect (`Fraction`): width over height of a pixel as it is shown.
    """
    import av

    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        if chapter:
            start, end = pts[0], pts[-1]
            container.set_chapters(
                [{"id": 1, "start": start, "end": end, "time_base": time_base, "metadata": {"title": chapter}}]
            )
        stream: Any = container.add_stream(codec, rate=25, options={"crf": "15"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.time_base = stream.time_base = time_base
        context.color_trc, context.color_primaries = colour
        context.colorspace = 1
        context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        tone = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for pixels, time in zip(frames, pts):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace="ITU709")
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tone is not None:
            container.mux(_tone(tone, float((pts[-1] + pts[1]) * time_base)))
    return path


def _tone(stream: Any, seconds: float) -> list[Any]:
    import av

    rate, packets = 16_000, []
    wave = (8000 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.int16)
    for start in range(0, len(wave), 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def read_back(path: Path) -> tuple[np.ndarray, list[Fraction]]:
    """All frames and their times in seconds, as any player would see them."""
    import av

    with av.open(str(path)) as container:
        decoded = [
            (frame.to_ndarray(format="rgb24"), Fraction(frame.pts * frame.time_base))  # type: ignore[operator]
            for frame in container.decode(video=0)
        ]
    return np.stack([pixels for pixels, _ in decoded]), [time for _, time in decoded]
