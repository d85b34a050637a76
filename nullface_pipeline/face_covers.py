"""Covers of a face: a plain ellipse, or an imitated blur or mosaic that holds one colour of it.

A real mosaic or blur tells more: an attacker applies it to known photos and compares. Here a blur
is one colour with a soft edge, and the cells of a mosaic follow a pattern that is the same for all
faces.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .photo_options import COVERS


# Margin of a cover beyond the corners of the box, as a share of the box.
MARGIN = 0.15

# Where the soft edge of a blur ends, in radii of the ellipse.
SOFT_EDGE = 1.3

# Largest difference of a mosaic's cell from the mean colour, in grey levels.
CONTRAST = 24
PATTERN = np.random.default_rng(0).integers(-CONTRAST, CONTRAST + 1, (8, 8))


@dataclass(frozen=True, eq=False)
class Ellipse:
    """The ellipse of a cover.

    Attributes:
        window (`tuple[slice, slice]`): rows and columns of the image, including the soft edge.
        u, v (`np.ndarray`): (1, w) and (h, 1) float64 coordinates from the centre, in radii.
    """

    window: tuple[slice, slice]
    u: np.ndarray
    v: np.ndarray

    @classmethod
    def around(cls, box: np.ndarray, picture_size: tuple[int, ...]) -> "Ellipse":
        """Ellipse around a box (x0, y0, x1, y1) in an (H, W) image."""
        centre, sides = (box[:2] + box[2:]) / 2.0, np.maximum(box[2:] - box[:2], 1.0)
        radii = (2**0.5 + MARGIN) * sides / 2.0
        height, width = picture_size[:2]
        x0, y0 = np.clip(np.floor(centre - SOFT_EDGE * radii), 0, [width, height]).astype(int)
        x1, y1 = np.clip(np.ceil(centre + SOFT_EDGE * radii) + 1, [x0, y0], [width, height]).astype(int)
        # OpenCV's fixed-point ellipses overflow in images of tens of thousands of pixels.
        y, x = np.ogrid[y0:y1, x0:x1]
        return cls((slice(y0, y1), slice(x0, x1)), (x - centre[0]) / radii[0], (y - centre[1]) / radii[1])

    @property
    def inside(self) -> np.ndarray:
        """(h, w) bool: the covered pixels."""
        return self.u**2 + self.v**2 <= 1.0

    @property
    def edge(self) -> np.ndarray:
        """(h, w) float64 in [0, 1]: 1 inside, falling to 0 at the end of the soft edge."""
        weight = np.clip((SOFT_EDGE - np.hypot(self.u, self.v)) / (SOFT_EDGE - 1.0), 0.0, 1.0)
        return weight**2 * (3.0 - 2.0 * weight)

    @property
    def pattern(self) -> np.ndarray:
        """(h, w) int: difference of a mosaic from the mean colour at each pixel."""
        rows, columns = (
            np.clip((coordinate + 1.0) / 2.0 * count, 0, count - 1).astype(int)
            for coordinate, count in zip((self.v, self.u), PATTERN.shape)
        )
        return PATTERN[rows, columns]


def cover_faces(pixels: np.ndarray, boxes: Sequence[np.ndarray], kind: str = COVERS[0]) -> np.ndarray:
    """Cover faces, later ones over earlier ones; returns a new array.

    Args:
        pixels (`np.ndarray`): (H, W, 3) uint8.
        boxes (`Sequence[np.ndarray]`): (4,) each, x0, y0, x1, y1 in pixels.
        kind (`str`): one of `COVERS`.
    """
    result = pixels.copy()
    ellipses = [ellipse for box in boxes if (ellipse := Ellipse.around(box, pixels.shape)).inside.any()]
    colours = [pixels[ellipse.window][ellipse.inside].mean(axis=0).round() for ellipse in ellipses]
    # All soft edges first, so that none is drawn over another cover.
    for ellipse, colour in zip(ellipses, colours) if kind == "blur" else ():
        part, weight = result[ellipse.window], ellipse.edge[..., None]
        part[:] = (part + weight * (colour - part)).round()
    for ellipse, colour in zip(ellipses, colours):
        inside = ellipse.inside
        if kind == "mosaic":
            # Keep away from black and white, so that the pattern is not clipped.
            colour = np.clip(colour, CONTRAST, 255 - CONTRAST) + ellipse.pattern[inside][:, None]
        result[ellipse.window][inside] = colour
    return result


def are_covered(pixels: np.ndarray, boxes: Sequence[np.ndarray], kind: str = COVERS[0]) -> list[bool]:
    """Whether each ellipse of (H, W, 3) uint8 `pixels` has one colour, but for a mosaic's pattern.

    Pixels of later covers, which lie on top, are left out.
    """
    taken = np.zeros(pixels.shape[:2], dtype=bool)
    covered = []
    for ellipse in [Ellipse.around(box, pixels.shape) for box in reversed(boxes)]:
        mine = ellipse.inside & ~taken[ellipse.window]
        colours = pixels[ellipse.window][mine].astype(int)
        if kind == "mosaic":
            colours -= ellipse.pattern[mine][:, None]
        covered.append(bool((colours == colours[:1]).all()))
        taken[ellipse.window] |= ellipse.inside
    return covered[::-1]


def widened(box: np.ndarray, margin: float) -> np.ndarray:
    """A box with the same centre whose cover also covers the corners of the given box."""
    centre, half = (box[:2] + box[2:]) / 2.0, (box[2:] - box[:2]) / 2.0
    half = half * (2**0.5 + margin) / (2**0.5 + MARGIN)
    return np.concatenate([centre - half, centre + half])
