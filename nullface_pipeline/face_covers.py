"""How a face is covered: by a patch, or by what looks like a blur or a mosaic. All that a cover holds of it is one colour.

A real mosaic or blur tells more: whoever treats photos of his own in the same way finds the one that looks alike. So the
edge of this blur is soft and nothing else, and the cells of this mosaic follow a pattern that is the same for everybody.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .photo_options import COVERS


# How much farther than around the box's corners a cover reaches, as a share of the box.
MARGIN = 0.15

# Where the soft edge of a blur ends, in radii of the ellipse, within which nothing of the face is left.
SOFT_EDGE = 1.3

# How much brighter than the mean colour each cell of a mosaic is, in grey levels.
CONTRAST = 24
PATTERN = np.random.default_rng(0).integers(-CONTRAST, CONTRAST + 1, (8, 8))


@dataclass(frozen=True, eq=False)
class Ellipse:
    """Where a cover goes.

    Attributes:
        window (`tuple[slice, slice]`): rows and columns of the picture, as far as a soft edge reaches.
        u, v (`np.ndarray`): (1, w) and (h, 1) float64: how far to the right of the centre and below it each pixel of the
            window is, in radii.
    """

    window: tuple[slice, slice]
    u: np.ndarray
    v: np.ndarray

    @classmethod
    def around(cls, box: np.ndarray, picture_size: tuple[int, ...]) -> "Ellipse":
        """The one around a box (x0, y0, x1, y1), in a picture of (H, W)."""
        centre, sides = (box[:2] + box[2:]) / 2.0, np.maximum(box[2:] - box[:2], 1.0)
        radii = (2**0.5 + MARGIN) * sides / 2.0
        height, width = picture_size[:2]
        x0, y0 = np.clip(np.floor(centre - SOFT_EDGE * radii), 0, [width, height]).astype(int)
        x1, y1 = np.clip(np.ceil(centre + SOFT_EDGE * radii) + 1, [x0, y0], [width, height]).astype(int)
        # Not OpenCV's: its fixed-point ellipses go wrong in pictures of tens of thousands of pixels.
        y, x = np.ogrid[y0:y1, x0:x1]
        return cls((slice(y0, y1), slice(x0, x1)), (x - centre[0]) / radii[0], (y - centre[1]) / radii[1])

    @property
    def inside(self) -> np.ndarray:
        """(h, w) bool: what is covered."""
        return self.u**2 + self.v**2 <= 1.0

    @property
    def edge(self) -> np.ndarray:
        """(h, w) float64 in [0, 1]: 1 inside, 0 from the end of a soft edge on."""
        way = np.clip((SOFT_EDGE - np.hypot(self.u, self.v)) / (SOFT_EDGE - 1.0), 0.0, 1.0)
        return way**2 * (3.0 - 2.0 * way)

    @property
    def pattern(self) -> np.ndarray:
        """(h, w) int: how much brighter a mosaic is at each pixel."""
        rows, columns = (
            np.clip((place + 1.0) / 2.0 * count, 0, count - 1).astype(int)
            for place, count in zip((self.v, self.u), PATTERN.shape)
        )
        return PATTERN[rows, columns]


def cover_faces(pixels: np.ndarray, boxes: Sequence[np.ndarray], kind: str = COVERS[0]) -> np.ndarray:
    """Cover faces, later ones over earlier ones; returns a new array.

    Args:
        pixels (`np.ndarray`): (H, W, 3) uint8.
        boxes (`Sequence[np.ndarray]`): (4,) each, x0, y0, x1, y1 in pixels; an ellipse goes around the corners of each.
        kind (`str`): one of `COVERS`.
    """
    result = pixels.copy()
    ellipses = [ellipse for box in boxes if (ellipse := Ellipse.around(box, pixels.shape)).inside.any()]
    colours = [pixels[ellipse.window][ellipse.inside].mean(axis=0).round() for ellipse in ellipses]
    # All soft edges first: none may shine through another's cover, or into it.
    for ellipse, colour in zip(ellipses, colours) if kind == "blur" else ():
        part, weight = result[ellipse.window], ellipse.edge[..., None]
        part[:] = (part + weight * (colour - part)).round()
    for ellipse, colour in zip(ellipses, colours):
        inside = ellipse.inside
        if kind == "mosaic":
            # Black and white give way a little, so that the pattern is whole.
            colour = np.clip(colour, CONTRAST, 255 - CONTRAST) + ellipse.pattern[inside][:, None]
        result[ellipse.window][inside] = colour
    return result


def are_covered(pixels: np.ndarray, boxes: Sequence[np.ndarray], kind: str = COVERS[0]) -> list[bool]:
    """Whether (H, W, 3) uint8 `pixels` show one colour in each ellipse, but for the pattern of a mosaic.

    Of each only what those after it leave is looked at, which is theirs.
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
    """A box around the same centre whose cover reaches farther around the given one's corners than `MARGIN`."""
    centre, half = (box[:2] + box[2:]) / 2.0, (box[2:] - box[:2]) / 2.0
    half = half * (2**0.5 + margin) / (2**0.5 + MARGIN)
    return np.concatenate([centre - half, centre + half])
