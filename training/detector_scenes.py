"""Composed training scenes of nullface-tiny's detector: portraits of many sizes on clutter."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from rich.progress import track
from skimage import data as skimage_data

from training import augmentation
from training.portraits import Portrait, five_points


MIN_FACE = 13.0  # side in px; smaller faces are ignored
MAX_PORTRAIT = 900.0  # longer side in px; detectors scale photos to 640
TEXTURES = ("brick", "grass", "gravel", "page", "moon", "hubble_deep_field", "immunohistochemistry")


def face_outline(landmarks: np.ndarray, forehead: float = 0.7) -> np.ndarray:
    """(27, 2) outline of a face: the jaw line, and the brows raised towards the hairline.

    Args:
        landmarks (`np.ndarray`): (68, 2) iBUG landmarks, which end at the brows.
        forehead (`float`): height of the outline above the brows, relative to the distance from the
            brows to the base of the nose. The hairline is at 1; boxes of WIDER FACE end at 0.7.
    """
    up = landmarks[17:27].mean(axis=0) - landmarks[33]
    return np.concatenate([landmarks[:17], landmarks[17:27] + forehead * up])


def bounding_box(points: np.ndarray) -> np.ndarray:
    """(4,) x0, y0, x1, y1 around (N, 2) points."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


@dataclass
class Scene:
    """Composed training image and its faces.

    Attributes:
        image (`np.ndarray`): (S, S, 3) uint8 RGB.
        boxes (`list`): (4,) float x0, y0, x1, y1 of each face in px, from forehead to chin.
        keypoints (`list`): (5, 2) float keypoints of each face in px.
        visible (`list`): False for faces that are mostly cut off, which are ignored.
    """

    image: np.ndarray
    boxes: list[np.ndarray] = field(default_factory=list)
    keypoints: list[np.ndarray] = field(default_factory=list)
    visible: list[bool] = field(default_factory=list)


class SceneComposer:
    """Draws training scenes from decoded portraits."""

    def __init__(self, portraits: list[Portrait]) -> None:
        self.images = [portrait.image() for portrait in track(portraits, "decoding")]
        self.landmarks = [portrait.landmarks for portrait in portraits]
        self.textures = [
            cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image[..., :3]
            for image in (getattr(skimage_data, name)() for name in TEXTURES)
        ]

    def scene(self, size: int, rng: np.random.Generator) -> Scene:
        """Scene of `size` px with 0 to 8 faces."""
        scene = Scene(self._background(size, rng))
        if rng.random() < 0.4:
            # A whole portrait, whose face fills much of the image.
            self._place(scene, rng, size * rng.uniform(0.25, 0.95), whole=True)
        elif rng.random() < 0.9:
            largest = size * rng.uniform(0.15, 0.6)
            self._place_some(scene, rng, int(rng.integers(1, 9)), largest)
        return self._finish(scene, rng)

    def training_scene(self, size: int, rng: np.random.Generator) -> Scene:
        """Random kind of scene: some faces, a window on one portrait, or a crowd of small faces."""
        kind = rng.random()
        if kind < 0.4:
            return self.scene(size, rng)
        return self.window(size, rng) if kind < 0.65 else self.crowd(size, rng)

    def crowd(self, size: int, rng: np.random.Generator) -> Scene:
        """Scene of 4 to 12 mostly small faces, as in one tile of a large photo."""
        scene = Scene(self._background(size, rng))
        self._place_some(scene, rng, int(rng.integers(4, 13)), max(24.0, 0.2 * size))
        return self._finish(scene, rng)

    def window(self, size: int, rng: np.random.Generator) -> Scene:
        """Scene from a random window on one portrait, at typical detection sizes.

        It contains frequent false positives: parts of faces, hands, collars, badges. One in five is
        rotated by a quarter turn or more and counts as background, because photos are searched in
        all four orientations.
        """
        image, landmarks = self._portrait(rng)
        rotated = rng.random() < 0.2
        degrees = (
            90.0 * rng.integers(1, 4) + rng.uniform(-20, 20) if rotated else np.clip(rng.normal(0.0, 18.0), -50, 50)
        )
        longest = np.exp(rng.uniform(np.log(0.7 * size), np.log(MAX_PORTRAIT)))
        matrix = cv2.getRotationMatrix2D((0, 0), float(degrees), longest / max(image.shape[:2]))
        box = bounding_box(face_outline(landmarks))
        at = rng.uniform(box[:2], box[2:]) if rng.random() < 0.6 else rng.uniform(0, 1, 2) * image.shape[1::-1]
        matrix[:, 2] = rng.uniform(0.25, 0.75, 2) * size - matrix[:, :2] @ at

        scene = Scene(self._background(size, rng))
        paste(scene.image, image, matrix, None)
        if not rotated:
            _add_face(scene, landmarks @ matrix[:, :2].T + matrix[:, 2])
        return self._finish(scene, rng)

    def _portrait(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random portrait and its landmarks, mirrored at times."""
        number = int(rng.integers(len(self.images)))
        image, landmarks = self.images[number], self.landmarks[number]
        return augmentation.mirrored(image, landmarks) if rng.random() < 0.5 else (image, landmarks)

    def _place_some(self, scene: Scene, rng: np.random.Generator, count: int, largest: float) -> None:
        """Try to place `count` faces of `MIN_FACE` to `largest` px, log-uniformly distributed."""
        for _ in range(count):
            face_size = np.exp(rng.uniform(np.log(MIN_FACE), np.log(largest)))
            self._place(scene, rng, face_size, rng.random() < 0.4)

    def _place(self, scene: Scene, rng: np.random.Generator, face_size: float, whole: bool) -> None:
        """Paste a portrait or its head with a face of `face_size` px, unless it covers another."""
        size = scene.image.shape[0]
        image, landmarks = self._portrait(rng)
        box = bounding_box(face_outline(landmarks))
        scale = face_size / np.sqrt(np.prod(box[2:] - box[:2]))
        if scale < 0.7:
            shrunk = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            factor = np.array(shrunk.shape[1::-1]) / image.shape[1::-1]
            image, landmarks, scale = shrunk, (landmarks + 0.5) * factor - 0.5, 1.0
        if not whole:
            image, landmarks = head_only(image, landmarks)
        matrix = cv2.getRotationMatrix2D((0, 0), float(np.clip(rng.normal(0.0, 14.0), -40, 40)), scale)
        centre = matrix[:, :2] @ bounding_box(face_outline(landmarks)).reshape(2, 2).mean(axis=0)
        reach = 0.5 * min(face_size, size) if rng.random() < 0.85 else 0.1 * face_size
        matrix[:, 2] = rng.uniform(min(reach, size / 2), max(size - reach, size / 2), size=2) - centre

        points = landmarks @ matrix[:, :2].T + matrix[:, 2]
        corners = np.array([[0, 0], [image.shape[1], 0], [image.shape[1], image.shape[0]], [0, image.shape[0]]])
        tile = bounding_box(corners @ matrix[:, :2].T + matrix[:, 2])
        if any(covered_share(box, tile) > 0.05 for box in scene.boxes):
            return
        if not whole or rng.random() < 0.3:
            image = augmentation.random_style(image, rng)
        paste(scene.image, image, matrix, head_mask(image, landmarks) if not whole else None)
        _add_face(scene, points)

    def _background(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """(size, size, 3) uint8 image without faces."""
        kind = rng.random()
        if kind < 0.15:
            # InsightFace pads with black; transparent photos are searched over black and white.
            plain = int(rng.choice([0, 255, int(rng.integers(256))]))
            canvas: np.ndarray = np.full((size, size, 3), plain, np.uint8)
        elif kind < 0.3:
            coarse = rng.integers(0, 256, (int(rng.integers(2, 24)),) * 2 + (3,), dtype=np.uint8)
            canvas = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)
        elif kind < 0.45:
            canvas = random_part(self.textures[int(rng.integers(len(self.textures)))], (size, size), rng)
        else:
            canvas = self._mosaic(size, rng, parts=int(np.exp(rng.uniform(0.0, np.log(30.0)))))
        if rng.random() < 0.5:
            clutter(canvas, rng)
        return canvas

    def _mosaic(self, size: int, rng: np.random.Generator, parts: int) -> np.ndarray:
        """(size, size, 3) uint8 of rectangles of portraits without faces."""
        canvas = self._faceless_part((size, size), rng)
        for _ in range(parts - 1):
            w, h = (int(side) for side in np.exp(rng.uniform(np.log(12.0), np.log(size), size=2)))
            x, y = int(rng.integers(0, size - w + 1)), int(rng.integers(0, size - h + 1))
            canvas[y : y + h, x : x + w] = self._faceless_part((w, h), rng)
        return canvas

    def _faceless_part(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Part of a portrait beside or below the face, scaled to `size` (width, height)."""
        number = int(rng.integers(len(self.images)))
        image = self.images[number]
        x0, y0, x1, y1 = bounding_box(face_outline(self.landmarks[number], forehead=1.5)).astype(int)
        gap = (y1 - y0) // 10
        parts = [image[y1 + gap :], image[:, : max(0, x0 - gap)], image[:, x1 + gap :]]
        parts = [part for part in parts if min(part.shape[:2]) >= 24]
        if not parts:
            return np.full((size[1], size[0], 3), rng.integers(0, 256, 3), np.uint8)
        return random_part(parts[int(rng.integers(len(parts)))], size, rng)

    def _finish(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """Augment the whole image."""
        image = augmentation.random_style(scene.image, rng) if rng.random() < 0.5 else scene.image
        if rng.random() < 0.15:
            image = augmentation.blur(image, rng, largest_sigma=1.2)
        if rng.random() < 0.15:
            image = augmentation.noise(image, rng)
        if rng.random() < 0.15:
            image = augmentation.jpeg(image, rng)
        scene.image = image
        return scene


def _add_face(scene: Scene, landmarks: np.ndarray) -> None:
    """Record a pasted face by its (68, 2) landmarks in the scene."""
    height, width = scene.image.shape[:2]
    box = bounding_box(face_outline(landmarks))
    scene.boxes.append(box)
    scene.keypoints.append(five_points(landmarks))
    scene.visible.append(covered_share(box, np.array([0, 0, width, height])) > 0.7)


def head_only(image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop an image and its landmarks to the part that `head_mask` needs."""
    x0, y0, x1, y1 = bounding_box(face_outline(landmarks, forehead=1.6))
    reach = 0.25 * (x1 - x0)
    height, width = image.shape[:2]
    left, top = int(max(0, x0 - reach)), int(max(0, y0 - 0.4 * reach))
    right, bottom = int(min(width, x1 + reach)), int(min(height, y1 + reach))
    return image[top:bottom, left:right], landmarks - (left, top)


def head_mask(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(H, W) float32 mask: 1 on face and hair, blurred to 0 around them and at the border."""
    outline = face_outline(landmarks, forehead=1.3)
    centre = outline.mean(axis=0)
    mask = np.zeros(image.shape[:2], np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull((centre + 1.12 * (outline - centre)).astype(np.int32)), 1.0)
    return cv2.GaussianBlur(mask, (0, 0), max(0.6, 0.03 * image.shape[1]), borderType=cv2.BORDER_CONSTANT)


def paste(canvas: np.ndarray, image: np.ndarray, matrix: np.ndarray, mask: np.ndarray | None) -> None:
    """Warp an image onto `canvas` in place, weighted by an optional (H, W) mask."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) @ matrix[:, :2].T + matrix[:, 2]
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int), canvas.shape[1::-1])
    if (high <= low).any():
        return
    local = matrix.copy()
    local[:, 2] -= low
    size = tuple(int(side) for side in high - low)
    mask = np.ones((height, width), np.float32) if mask is None else mask
    weight = cv2.warpAffine(mask, local, size)
    warped = cv2.warpAffine(image, local, size, borderMode=cv2.BORDER_REPLICATE)
    region = canvas[low[1] : high[1], low[0] : high[0]]
    region[:] = cv2.blendLinear(warped, np.ascontiguousarray(region), weight, 1.0 - weight)


def covered_share(box: np.ndarray, cover: np.ndarray) -> float:
    """Share of `box` that the box `cover` covers."""
    inside = np.minimum(box[2:], cover[2:]) - np.maximum(box[:2], cover[:2])
    return float(np.prod(np.maximum(inside, 0.0)) / np.prod(box[2:] - box[:2]))


def random_part(image: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Random part of an image, flipped at times, scaled to `size` (width, height)."""
    h, w = (int(side * rng.uniform(0.4, 1.0)) for side in image.shape[:2])
    y, x = int(rng.integers(0, image.shape[0] - h + 1)), int(rng.integers(0, image.shape[1] - w + 1))
    part = image[y : y + h, x : x + w]
    flip = int(rng.integers(0, 3))
    part = part if flip == 0 else part[:, ::-1] if flip == 1 else part[::-1]
    shrinking = w > size[0]
    return cv2.resize(part, size, interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


def clutter(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Draw shapes, lines and letters on the canvas, some of them round and skin-coloured."""
    size = canvas.shape[0]
    for _ in range(int(rng.integers(1, 16))):
        colour = rng.integers(0, 256, 3).tolist()
        if rng.random() < 0.4:
            colour = (np.array([224, 172, 140]) * rng.uniform(0.3, 1.1)).clip(0, 255).tolist()
        at = tuple(rng.integers(0, size, 2).tolist())
        extent = tuple(rng.integers(2, size // 4, 2).tolist())
        kind = int(rng.integers(4))
        if kind == 0:
            cv2.ellipse(canvas, at, extent, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
            for _ in range(int(rng.integers(0, 5))):  # badges, cups, wheels
                inner = [
                    (int(a + e * rng.normal(0.0, 0.4)), max(1, int(e * rng.uniform(0.1, 0.7))))
                    for a, e in zip(at, extent)
                ]
                colour = rng.integers(0, 256, 3).tolist()
                centre, axes = zip(*inner)
                cv2.ellipse(
                    canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, int(rng.integers(-1, 4)) or 1
                )
        elif kind == 1:
            cv2.rectangle(canvas, at, (at[0] + extent[0], at[1] + extent[1]), colour, -1)
        elif kind == 2:
            cv2.line(canvas, at, tuple(rng.integers(0, size, 2).tolist()), colour, int(rng.integers(1, 8)))
        else:
            word = "".join(chr(c) for c in rng.integers(33, 127, int(rng.integers(1, 12))))
            cv2.putText(canvas, word, at, int(rng.integers(8)), rng.uniform(0.3, 3.0), colour, int(rng.integers(1, 5)))
