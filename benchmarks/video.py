"""Leaks, steadiness and cost of anonymized video, on made clips in which it is known where every
face is.

    python -m benchmarks.video motion bar crossing cut turn mouth wallpaper foliage crowd --output
    video.json

Needs the portraits that nullface-tiny is measured on (`--data`), and the packages of the extras
`training` and `video`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import torch
from scipy.interpolate import RBFInterpolator

from nullface_pipeline.evaluation.attributes import find_68, shape_predictor
from nullface_pipeline.evaluation.recognizers import DlibRecognizer
from nullface_pipeline.face_identity import embed_face
from nullface_pipeline.model_sets import load_model_set
from nullface_pipeline.protocols import NullFacePipeline
from nullface_pipeline.video import anonymize_video
from nullface_pipeline.video.reader import read_frames, read_info
from nullface_pipeline.video.writer import write_segment
from tests.video.clips import Clip, Motion, Portrait, background, draw, make_clip, read_back, sway, write_clip
from training.expression import openings
from training.portraits import five_points, load_portraits


# dlib's own distance from which on two faces are taken for strangers.
STRANGERS = 0.6

# A face counts as changed where its pixels differ by more grey levels than compression makes; the
# part of its box that is looked at; the share below which the frame has leaked.
DIFFERENT, INNER, LEAKED = 6, 0.6, 0.3

# A face has a cover if more than this share of it differs from one colour by at most SAME_COLOUR
# grey levels. Faces without a cover reach 0.13. COLOUR_CELL is the bin width of the search.
PATCHED, SAME_COLOUR, COLOUR_CELL = 0.2, 2, 4

# Where dlib's landmarks begin, in distances of the eyes from where the face is.
LOOKS = [(x, y) for x in (-0.06, 0.0, 0.06) for y in (-0.06, 0.0, 0.06)]

SIZE = (200, 264)

# Backgrounds in blue and green: nullface-tiny's detector takes some in the colours of skin for
# faces.
SCENE, OTHER_SCENE = 9, 23

# People in the clips, and people out of focus behind them.
KNOWN, CROWD = 2, 24

# Standard deviation of the blur of a crowd, in shares of the height of a face in it.
OUT_OF_FOCUS = 0.11

People = dict[str, tuple[Portrait, Motion]]


@dataclass(frozen=True, eq=False)
class Marked(Portrait):
    """A picture with one face, and its (68, 2) landmarks."""

    landmarks: np.ndarray


def people(data: Path, count: int, first: int) -> list[Marked]:
    """Colour portraits of the validation split."""
    chosen = [portrait for portrait in load_portraits(data, "validation") if portrait.colour][first : first + count]
    return [Marked(each.image(), each.box.astype(float), each.landmarks) for each in chosen]


def motion(faces: list[Marked], frames: int) -> Clip:
    return make_clip({"a": (faces[0], sway(130, 100, 80, 14, 6, 0.06))}, frames, SIZE, seed=SCENE)


def bar(faces: list[Marked], frames: int) -> Clip:
    """A bar passes before the face, and a few frames are blurred."""

    def change(number: int, frame: np.ndarray) -> np.ndarray:
        left = 60 + 10 * number
        frame[:, left : left + 40] = (40, 60, 50)
        return cv2.GaussianBlur(frame, (0, 0), 4.0) if number % 7 == 5 else frame

    return make_clip({"a": (faces[0], sway(130, 100, 80))}, frames, SIZE, change=change, seed=SCENE)


def crossing(faces: list[Marked], frames: int) -> Clip:
    """One face passes in front of another."""
    two: People = {
        "a": (faces[0], sway(140, 100, 74, 5)),
        "b": (faces[1], lambda t: (40 + 180 * t * 8 / frames, 104, 78, 0)),
    }
    return make_clip(two, frames, SIZE, seed=SCENE)


def cut(faces: list[Marked], frames: int) -> Clip:
    """One shot, then one of another person, with an exit and a return."""
    first = make_clip({"a": (faces[0], sway(100, 100, 80))}, frames // 3, SIZE, seed=SCENE)

    def goes_and_returns(t: float) -> tuple[float, float, float, float]:
        return 150 + 220 * np.sin(np.pi * t * 8 / (frames - frames // 3)), 100, 84, 0

    second = make_clip({"b": (faces[1], goes_and_returns)}, frames - frames // 3, SIZE, seed=OTHER_SCENE)
    return joined(first, second)


def turn(faces: list[Marked], frames: int) -> Clip:
    """A head that turns to the side and leaves the picture, ever faster."""

    def place(t: float) -> tuple[float, float, float, float]:
        gone = max(0.0, t * 8 - frames / 2)
        return 120 + 9 * gone**1.6, 100, 82, 3 * gone

    return make_clip({"a": (faces[0], place)}, frames, SIZE, seed=SCENE)


def mouth(faces: list[Marked], frames: int) -> Clip:
    """A face that speaks: its mouth opens and shuts, twice in a second and a half."""
    face, place = faces[0], sway(130, 100, 90, 6, 3)
    most = 0.12 * (face.box[3] - face.box[1])

    def speak(number: int, frame: np.ndarray) -> np.ndarray:
        opened = most * (0.5 - 0.5 * np.cos(2 * np.pi * number / 6))
        draw(frame, Portrait(open_mouth(face.pixels, face.landmarks, opened), face.box), *place(number / 8))
        return frame

    return make_clip({"a": (face, place)}, frames, SIZE, change=speak, seed=SCENE)


def wallpaper(faces: list[Marked], frames: int) -> Clip:
    """A face before a patterned wallpaper."""
    return make_clip({"a": (faces[0], sway(130, 100, 80))}, frames, SIZE, seed=SCENE, scene=medallions(*SIZE))


def foliage(faces: list[Marked], frames: int) -> Clip:
    """A face before leaves in light and shade."""
    return make_clip({"a": (faces[0], sway(130, 100, 80))}, frames, SIZE, seed=SCENE, scene=foliage_picture(*SIZE))


def crowd(faces: list[Marked], frames: int) -> Clip:
    """A face before a crowd out of focus, some of which the detector finds."""
    behind = blurred_crowd(faces[KNOWN:], *SIZE)
    return make_clip({"a": (faces[0], sway(130, 100, 70))}, frames, SIZE, seed=SCENE, scene=behind)


def medallions(height: int, width: int, tile: int = 90) -> np.ndarray:
    """(H, W, 3) uint8 wallpaper of leaves in ovals, of which the detector takes some for faces."""
    ground, ornament = (196, 160, 128), (120, 80, 64)
    oval = np.full((tile, tile, 3), ground, np.uint8)
    # Centre, half axes and angle of each leaf, in shares of the tile.
    leaves = [(0.35, 0.40, 0.10, 0.05, -25), (0.65, 0.40, 0.10, 0.05, 25), (0.50, 0.50, 0.04, 0.14, 0)]
    leaves += [(0.38, 0.70, 0.10, 0.04, 25), (0.62, 0.70, 0.10, 0.04, -25)]
    for x, y, across, down, angle in leaves:
        centre, axes = (round(x * tile), round(y * tile)), (round(across * tile), round(down * tile))
        cv2.ellipse(oval, centre, axes, angle, 0, 360, ornament, -1, cv2.LINE_AA)
    rim = (round(0.36 * tile), round(0.46 * tile))
    cv2.ellipse(oval, (tile // 2, tile // 2), rim, 0, 0, 360, ornament, 2, cv2.LINE_AA)
    lower = np.roll(oval, tile // 2, axis=0)
    pattern = np.tile(np.concatenate([oval, lower], axis=1), (height // tile + 1, width // (2 * tile) + 1, 1))
    return np.ascontiguousarray(pattern[:height, :width])


def foliage_picture(height: int, width: int, count: int = 1500) -> np.ndarray:
    """(H, W, 3) uint8 leaves of many greens, the lit ones in front."""
    rng = np.random.default_rng(SCENE)
    picture = np.full((height, width, 3), (18, 30, 14), np.uint8)
    for light in np.linspace(0.3, 1.0, count):
        colour = light * (np.array([110, 170, 70]) + rng.normal(0, 20, 3))
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(6, 13)), int(rng.integers(2, 5)))
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(picture, centre, axes, angle, 0, 360, np.clip(colour, 0, 255).tolist(), -1, cv2.LINE_AA)
    return picture


def blurred_crowd(faces: list[Marked], height: int, width: int, face_height: int = 36) -> np.ndarray:
    """(H, W, 3) uint8 rows of faces, each half hidden by the row before it, out of focus."""
    picture = background(height, width, seed=SCENE)
    across, down = round(1.4 * face_height), round(1.5 * face_height)
    places = [
        (x + (row % 2) * across // 2, y)
        for row, y in enumerate(range(face_height // 2, height + down, down))
        for x in range(0, width + across, across)
    ]
    for number, (x, y) in enumerate(places):
        draw(picture, faces[number % len(faces)], x, y, face_height, 0)
    return cv2.GaussianBlur(picture, (0, 0), OUT_OF_FOCUS * face_height)


def open_mouth(pixels: np.ndarray, landmarks: np.ndarray, opened: float) -> np.ndarray:
    """(H, W, 3) uint8 with the lower lip and the jaw so many pixels lower, and a dark mouth.

    Args:
        landmarks (`np.ndarray`): (68, 2), iBUG order.
    """
    lower = np.zeros(68)
    lower[[*range(3, 14), *range(55, 60), 65, 66, 67]] = opened
    lower[[3, 4, 12, 13]] *= 0.4
    height, width = pixels.shape[:2]
    edge = np.array(
        [[x, y] for x in np.linspace(0, width, 7) for y in (0, height)] + [[0, height / 2], [width, height / 2]]
    )
    moved = landmarks + np.stack([np.zeros(68), lower], axis=1)
    shift = RBFInterpolator(np.concatenate([moved, edge]), np.concatenate([lower, np.zeros(len(edge))]), smoothing=1.0)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    down = shift(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(height, width).astype(np.float32)
    warped = cv2.remap(pixels, x, y - down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.fillPoly(np.zeros((height, width), np.float32), [moved[60:68].round().astype(np.int32)], 1.0)
    inside = cv2.GaussianBlur(inside, (0, 0), 1.0)[..., None] * min(1.0, opened / 3.0)
    return np.rint(warped + inside * (np.array([50, 24, 24]) - warped)).astype(np.uint8)


def joined(first: Clip, second: Clip) -> Clip:
    shift = first.pts[-1] + first.pts[1] - first.pts[0]
    return Clip(
        np.concatenate([first.frames, second.frames]),
        first.boxes + second.boxes,
        first.matrices + second.matrices,
        first.pts + [time + shift for time in second.pts],
    )


SCENES: dict[str, Callable[[list[Marked], int], Clip]] = {
    "motion": motion,
    "bar": bar,
    "crossing": crossing,
    "cut": cut,
    "turn": turn,
    "mouth": mouth,
    "wallpaper": wallpaper,
    "foliage": foliage,
    "crowd": crowd,
}


def measure(
    pipe: NullFacePipeline, scene: str, data: Path, frames: int, first: int, preset: str, pictures: Path | None
) -> dict[str, object]:
    """All figures of one scene."""
    chosen = people(data, KNOWN + CROWD, first)
    clip = SCENES[scene](chosen, frames)
    landmarks = {name: face.landmarks for name, face in zip("ab", chosen)}
    counted = Counted(pipe)
    with tempfile.TemporaryDirectory() as folder:
        source = write_clip(Path(folder) / "in.mp4", clip.frames, clip.pts)
        started, used = time.perf_counter(), time.process_time()
        report = anonymize_video(pipe, source, Path(folder) / "out.mp4", seed=7, preset=preset)
        seconds, processor_seconds = time.perf_counter() - started, time.process_time() - used
        before, times = read_back(source)
        after, _ = read_back(Path(folder) / "out.mp4")
        alike = Path(folder) / "alike.nut"
        write_segment(alike, read_frames(source), read_info(source), ".mp4")
        encoded = np.stack([frame.pixels for frame in read_frames(alike)])[:, : SIZE[0], : SIZE[1]]
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            rows = [
                np.concatenate(list(np.concatenate([before, after], axis=1)[at : at + 8]), axis=1)
                for at in range(0, len(before), 8)
            ]
            for number, row in enumerate(rows):
                PIL.Image.fromarray(row).save(pictures / f"{scene}-{number}.png")
    counted.remove()
    cost = {
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "unet_samples": counted.samples,
        "unet_samples_a_second_of_video": counted.samples / float(times[-1] + times[1]),
    }
    figures = {
        "report": asdict(report),
        "frames_with_cover": report.patched_frames,
        "frames_with_covered_face": sum(
            bool(clip.boxes[number]) and not patch_free(clip, after, number) for number in range(len(after))
        ),
        **leaks(clip, before, after, landmarks),
        **steadiness(pipe, clip, before, after, encoded, landmarks),
        **expression(clip, before, after, encoded, landmarks["a"]),
    }
    return {"scene": scene, "preset": preset, "frames": frames, **cost, **figures}


class Counted:
    """Counts the samples that go through the UNet."""

    def __init__(self, pipe: NullFacePipeline) -> None:
        self.samples = 0
        self.hook = pipe.unet.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        self.samples += len(args[0] if args else kwargs["sample"])

    def remove(self) -> None:
        self.hook.remove()


def leaks(clip: Clip, before: np.ndarray, after: np.ndarray, landmarks: dict[str, np.ndarray]) -> dict[str, object]:
    """Frames in which a known face is as it was, by its pixels and by dlib's recognizer; of faces
    behind others, only by the former."""
    dlib = DlibRecognizer()
    shares, distances, places = [], [], []
    leaked_frames = set()
    for number, boxes in enumerate(clip.boxes):
        for name, box in boxes.items():
            inner = inner_box(box, before.shape[1:3])
            if inner is None:
                continue
            x0, y0, x1, y1 = inner
            difference = np.abs(before[number, y0:y1, x0:x1].astype(int) - after[number, y0:y1, x0:x1]).max(axis=-1)
            shares.append(float((difference > DIFFERENT).mean()))
            if shares[-1] < LEAKED:
                leaked_frames.add(number)
            points = landmarks[name] @ clip.matrices[number][name][:, :2].T + clip.matrices[number][name][:, 2]
            seen = [dlib(pictures[number], five_points(points)) for pictures in (before, after)]
            # Of a face that is cut off, dlib sees more of what lies beyond the frame.
            if box[0] >= 0 and box[1] >= 0 and box[2] <= before.shape[2] and box[3] <= before.shape[1]:
                distances.append(float(np.linalg.norm(np.subtract(*seen))))
                places.append([number, name])
    return {
        "faces": len(shares),
        "leaked_by_pixels": int((np.array(shares) < LEAKED).sum()),
        "frames_with_leak": len(leaked_frames),
        "least_changed": min(shares),
        "whole_faces": len(distances),
        "recognized_by_dlib": int((np.array(distances) < STRANGERS).sum()),
        "nearest_by_dlib": min(distances),
        "mean_distance_by_dlib": float(np.mean(distances)),
        "recognized_at": [place for place, distance in zip(places, distances) if distance < STRANGERS],
    }


def inner_box(box: np.ndarray, size: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """Whole pixels of the inner part of a box, as far as an (H, W) frame shows it; None if that is
    next to nothing.
    """
    centre, half = (box[:2] + box[2:]) / 2, INNER * (box[2:] - box[:2]) / 2
    x0, y0 = np.clip(np.round(centre - half), 0, size[1::-1]).astype(int)
    x1, y1 = np.clip(np.round(centre + half), 0, size[1::-1]).astype(int)
    return (int(x0), int(y0), int(x1), int(y1)) if x1 - x0 > 3 and y1 - y0 > 3 else None


def steadiness(
    pipe: NullFacePipeline,
    clip: Clip,
    before: np.ndarray,
    after: np.ndarray,
    encoded: np.ndarray,
    landmarks: dict[str, np.ndarray],
) -> dict[str, object]:
    """Warping error and identity from frame to frame, where no patch is: of the result, of the
    original, and of the original encoded once more as the result is."""
    kinds = {"original": before, "encoded": encoded, "result": after}
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    errors: dict[str, list[float]] = {kind: [] for kind in kinds}
    embeds: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    usable = [patch_free(clip, after, number) for number in range(len(before))]
    for number in range(len(before) - 1):
        if not (usable[number] and usable[number + 1]):
            continue
        grey = [cv2.cvtColor(before[at], cv2.COLOR_RGB2GRAY) for at in (number, number + 1)]
        moved = np.asarray(flow.calc(grey[0], grey[1], np.zeros((*grey[0].shape, 2), np.float32)))
        for box in clip.boxes[number].values():
            inner = inner_box(box, before.shape[1:3])
            if inner is not None and number + 1 < len(before):
                for kind, pictures in kinds.items():
                    errors[kind].append(warping_error(pictures[number], pictures[number + 1], moved, inner))
    for number in range(len(before)):
        if usable[number] and set(clip.boxes[number]) == {"a"}:
            matrix = clip.matrices[number]["a"]
            points = five_points(landmarks["a"]) @ matrix[:, :2].T + matrix[:, 2]
            for kind, pictures in kinds.items():
                embeds[kind].append(embed_face(pipe.face_analyser, pictures[number], points))
    result: dict[str, object] = {"uncovered_frames": sum(usable)}
    for kind in kinds:
        if errors[kind]:
            result[f"warping_error_{kind}"] = float(np.mean(errors[kind]))
        if len(embeds[kind]) > 1:
            alike = np.stack(embeds[kind]) @ np.stack(embeds[kind]).T
            pairs = alike[np.triu_indices(len(alike), 1)]
            result[f"cosine_{kind}"], result[f"worst_cosine_{kind}"] = float(pairs.mean()), float(pairs.min())
    if embeds["result"]:
        own = [float(a @ b) for a, b in zip(embeds["original"], embeds["result"])]
        result["cosine_to_original"], result["highest_to_original"] = float(np.mean(own)), float(np.max(own))
    return result


def expression(
    clip: Clip, before: np.ndarray, after: np.ndarray, encoded: np.ndarray, landmarks: np.ndarray
) -> dict[str, float]:
    """How far the gap between the lips follows the original's from frame to frame, by dlib, where
    no patch is: that of the result, and that of the original encoded once more as the result is."""
    gaps = []
    for number, boxes in enumerate(clip.boxes):
        if set(boxes) == {"a"} and patch_free(clip, after, number):
            matrix = clip.matrices[number]["a"]
            points = five_points(landmarks) @ matrix[:, :2].T + matrix[:, 2]
            gaps.append([lip_gap(pictures[number], points) for pictures in (before, after, encoded)])
    if len(gaps) < 3:
        return {}
    alike = np.corrcoef(np.array(gaps).T)
    return {
        "mouth_frames": len(gaps),
        "mouth_correlation": float(alike[0, 1]),
        "mouth_correlation_encoded": float(alike[0, 2]),
        "mouth_opens": float(np.ptp(gaps, axis=0)[0]),
    }


def lip_gap(pixels: np.ndarray, landmarks: np.ndarray) -> float:
    """Mean of several looks: dlib's landmarks of small faces tremble with the box from which it
    begins.

    Args:
        landmarks (`np.ndarray`): (5, 2), of the face.
    """
    eyes_apart = np.linalg.norm(landmarks[1] - landmarks[0])
    looks = [landmarks + eyes_apart * np.array(shift) for shift in LOOKS]
    return float(np.mean([openings(find_68(shape_predictor(), pixels, look))[0] for look in looks]))


def patch_free(clip: Clip, after: np.ndarray, number: int) -> bool:
    """Whether a frame has faces and no patch at them: in none of their boxes has a large part one
    colour.
    """
    boxes = [np.clip(box.round(), 0, (*SIZE[::-1], *SIZE[::-1])).astype(int) for box in clip.boxes[number].values()]
    faces = [after[number, y0:y1, x0:x1] for x0, y0, x1, y1 in boxes]
    return bool(faces) and all(face.size and one_colour(face) < PATCHED for face in faces)


def one_colour(pixels: np.ndarray) -> float:
    """Share of (H, W, 3) uint8 pixels whose colour is that of most pixels, or nearly."""
    values = pixels.reshape(-1, 3).astype(int)
    cells, counts = np.unique(values // COLOUR_CELL, axis=0, return_counts=True)
    most = np.median(values[np.all(values // COLOUR_CELL == cells[counts.argmax()], axis=1)], axis=0)
    return float(np.mean(np.abs(values - most).max(axis=1) <= SAME_COLOUR))


def warping_error(first: np.ndarray, second: np.ndarray, flow: np.ndarray, box: tuple[int, int, int, int]) -> float:
    """Mean absolute difference in grey levels between a frame and the next one, moved back, within
    a box.
    """
    height, width = first.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    back = cv2.remap(second, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    x0, y0, x1, y1 = box
    return float(np.abs(first[y0:y1, x0:x1].astype(float) - back[y0:y1, x0:x1]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="+", choices=SCENES)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/portraits.parquet"))
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--first", type=int, default=0, help="Which portrait of the validation split comes first.")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--pictures", type=Path, help="A folder for the frames before, above those after.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipe = load_model_set("tiny")
    for scene in arguments.scenes:
        line = json.dumps(
            measure(
                pipe, scene, arguments.data, arguments.frames, arguments.first, arguments.preset, arguments.pictures
            )
        )
        print(line)
        if arguments.output is not None:
            with arguments.output.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
