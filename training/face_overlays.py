"""Synthetic fringes, hats and glasses on aligned portraits, for the training of the face parser.

Functions take a (size, size, 3) uint8 RGB crop, its (68, 2) landmarks and the second label map of
`training.face_labels`, and return a new crop and a new map. Hair and hats are labelled above the
brows only: below, the anonymization mask must never lose a pixel.
"""

import cv2
import numpy as np

from training.face_labels import GLASSES, HAIR, HAT, IGNORED, LENS, label_map
from training.hair_labels import FaceFrame, is_colourful


# Lab colours (0 to 255) of hair, from black to white.
HAIR_COLOURS = np.array(
    [[25, 128, 128], [45, 132, 136], [70, 138, 144], [95, 140, 150], [130, 136, 152], [165, 132, 150],
     [90, 148, 160], [110, 128, 129], [160, 128, 130], [215, 128, 131]], dtype=np.float32
)  # fmt: skip
FRINGES = ("straight", "swept", "parted", "peak", "wavy")


def add_fringe(
    image: np.ndarray, points: np.ndarray, others: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cover the upper forehead by the person's own hair, stretched down, or by synthetic hair."""
    size, frame = len(image), FaceFrame.of(points, len(image))
    edge = fringe_height(frame, rng)
    fringe = np.clip(0.5 + (frame.height - edge) * frame.unit / rng.uniform(1.0, 3.0), 0.0, 1.0)
    inside = cv2.GaussianBlur((label_map(points, size) > 0).astype(np.float32), (0, 0), 1.0)
    own = others == HAIR
    if own.sum() > 0.4 * size and rng.random() < 0.6:
        hair, alpha = stretched_hair(image, own, frame, edge), np.where(own, 1.0, inside * fringe)
    else:
        hair = toned_like(hair_texture(size, points, rng), image)
        width, top, drop = rng.uniform(0.95, 1.3), rng.uniform(1.35, 1.8), rng.uniform(0.2, 2.5)
        outline = np.square(frame.side / width) + np.square(frame.height / np.where(frame.height > 0.0, top, drop))
        alpha = np.clip((1.0 - outline) * 8.0, 0.0, 1.0) * (inside * fringe + 1.0 - inside)
    alpha = np.where(frame.above_brows, alpha, alpha * (1.0 - inside))
    return _cover(image, others, frame, hair, alpha, HAIR, rng.uniform(0.0, 0.5))


def fringe_height(frame: FaceFrame, rng: np.random.Generator) -> np.ndarray:
    """(size, size) height of the lower edge of a random fringe with strands, at a pixel's side."""
    side = frame.side
    low, high = sorted(rng.uniform(0.1, 0.85, size=2))
    tilt = rng.choice([-1.0, 1.0])
    style = rng.choice(FRINGES)
    across = np.clip(0.5 + 0.5 * tilt * side / 0.7, 0.0, 1.0)
    if style == "straight":
        edge = np.full_like(side, low) + rng.uniform(0.0, 0.25) * np.square(side)
    elif style == "swept":
        edge = low + (high - low) * across ** rng.uniform(0.6, 2.0)
    elif style == "parted":
        edge = high + 0.1 - (high - low) * np.clip(np.abs(side - 0.3 * tilt * rng.random()) / 0.6, 0.0, 1.0) ** 0.8
    elif style == "peak":
        edge = low + (high - low) * np.clip(np.abs(side) / 0.5, 0.0, 1.0)
    else:
        edge = low + 0.25 + 0.2 * np.sin(rng.uniform(2.0, 7.0) * side + rng.uniform(0.0, 6.3))
    positions = np.linspace(-2.0, 2.0, 320)
    strands = rng.standard_normal(320)
    strands = cv2.GaussianBlur(strands[None], (0, 0), rng.uniform(0.7, 4.0))[0]
    strands *= rng.uniform(0.01, 0.1) / (strands.std() + 1e-6)
    # Strands hang down along a slant.
    along = side + rng.uniform(-0.6, 0.6) * frame.height
    return edge + np.interp(along, positions, strands)


def stretched_hair(image: np.ndarray, hair: np.ndarray, frame: FaceFrame, edge: np.ndarray) -> np.ndarray:
    """The person's hair above the forehead, stretched down to `edge` per column."""
    size = len(image)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    top = np.where(hair.any(axis=0), hair.argmax(axis=0), 0)
    bottom = np.where(hair.any(axis=0), size - 1 - hair[::-1].argmax(axis=0), 0)
    columns = np.flatnonzero(hair.any(axis=0))
    top, bottom = (np.interp(np.arange(size), columns, ends[columns]) for ends in (top, bottom))
    reach = np.maximum((frame.height > edge).sum(axis=0) - 1, bottom)
    share = np.clip((y - top) / np.maximum(reach - top, 1.0), 0.0, 1.0)
    source = (top + share * np.maximum(bottom - 2.0 - top, 1.0)).astype(np.float32)
    columns_below = np.clip(x, columns[0], columns[-1]).astype(np.float32)
    return cv2.remap(image, columns_below, source, cv2.INTER_LINEAR)


def hair_texture(size: int, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8 strands of one colour, hanging down or swept to a side."""
    colour = HAIR_COLOURS[rng.integers(len(HAIR_COLOURS))] + rng.normal(0.0, [12.0, 2.0, 3.0])
    grain = rng.standard_normal((size, size)).astype(np.float32)
    strands = cv2.GaussianBlur(grain, (0, 0), sigmaX=rng.uniform(0.4, 1.0), sigmaY=rng.uniform(4.0, 14.0))
    waves = cv2.GaussianBlur(rng.standard_normal((size, size)).astype(np.float32), (0, 0), rng.uniform(5.0, 12.0))
    lightness = rng.uniform(3.0, 14.0) * (strands / strands.std() + rng.uniform(0.3, 1.5) * waves / waves.std())
    y, x = np.mgrid[:size, :size].astype(np.float32)
    slant, centre = rng.uniform(-1.2, 1.2), points[17:27].mean(axis=0)
    fan = rng.uniform(-0.6, 0.6) * (x - centre[0]) / 40.0
    shifted = x + (slant + fan) * (y - centre[1])
    lightness = cv2.remap(lightness, shifted.astype(np.float32), y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    lab = np.broadcast_to(colour, (size, size, 3)).copy()
    lab[..., 0] += lightness * np.clip(colour[0] / 60.0, 0.4, 1.2)
    return cv2.cvtColor(np.clip(lab, 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)


def toned_like(layer: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Reduce an RGB layer to the tone of the image if that is grey or sepia."""
    if is_colourful(image):
        return layer
    lab = cv2.cvtColor(layer, cv2.COLOR_RGB2LAB)
    lab[..., 1:] = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 1:].mean(axis=(0, 1)).round()
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def add_hat(
    image: np.ndarray, points: np.ndarray, others: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cover the forehead by a cap or a hat with a smooth lower edge, and with a brim in half."""
    frame = FaceFrame.of(points, len(image))
    bend, tilt = rng.uniform(-0.35, 0.35), rng.normal(0.0, 0.12)
    edge = rng.uniform(0.12, 0.7) + bend * np.square(frame.side) + tilt * frame.side
    alpha = np.clip(0.5 + (frame.height - edge) * frame.unit / rng.uniform(0.8, 2.0), 0.0, 1.0)
    width, top = rng.uniform(1.0, 1.9), rng.uniform(1.3, 2.4)
    alpha *= np.clip((1.0 - (frame.side / width) ** 4 - (frame.height / top) ** 4) * 6.0, 0.0, 1.0)
    fabric = toned_like(hat_fabric(image, rng), image)
    if rng.random() < 0.6:
        brim = (frame.height - edge) < rng.uniform(0.06, 0.35)
        shade = rng.uniform(0.3, 1.5)
        fabric = np.where(brim[..., None], np.clip(fabric * shade, 0, 255), fabric).astype(np.uint8)
    return _cover(image, others, frame, fabric, alpha, HAT, rng.uniform(0.2, 0.7))


def hat_fabric(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8: the clothes at the lower edge, enlarged, or one shaded colour."""
    size = len(image)
    if rng.random() < 0.4:
        height = int(rng.integers(10, 24))
        x = int(rng.integers(0, size // 2))
        return cv2.resize(image[size - height - 2 : size - 2, x : x + size // 2], (size, size))
    shade = cv2.resize(rng.normal(0.0, 14.0, (4, 4)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0.0, rng.uniform(1.0, 8.0), (size, size)).astype(np.float32)
    colour = rng.uniform(0, 255) + rng.normal(0.0, 40.0, 3)
    return np.clip(colour + (shade + grain)[..., None], 0, 255).astype(np.uint8)


def _cover(
    image: np.ndarray,
    others: np.ndarray,
    frame: FaceFrame,
    layer: np.ndarray,
    alpha: np.ndarray,
    label: int,
    shadow: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Blend a layer over a crop, with its shadow below, and label it above the brows."""
    alpha = alpha.astype(np.float32)
    below = cv2.warpAffine(
        alpha, np.array([[1, 0, 0], [0, 1, 2]], np.float32), alpha.shape[::-1], borderMode=cv2.BORDER_REPLICATE
    )
    dark = 1.0 - shadow * cv2.GaussianBlur(below, (0, 0), 2.0)[..., None]
    pixels = image * dark + alpha[..., None] * (layer.astype(np.float32) - image * dark)
    covered = alpha > 0.5
    others = np.where(covered & frame.above_brows, label, others)
    others = np.where((alpha > 0.1) & ~covered & (others == label) & frame.above_brows, IGNORED, others)
    return np.rint(pixels).clip(0, 255).astype(np.uint8), others.astype(np.uint8)


def add_glasses(
    image: np.ndarray, points: np.ndarray, others: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw glasses at the eyes: frame, bridge, temples, reflections, and dark lenses at times."""
    zoom, size = 4, len(image)
    eyes = np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0)])
    across = eyes[1] - eyes[0]
    unit = max(float(np.hypot(*across)), 0.8 * FaceFrame.of(points, size).unit)
    right = across / np.hypot(*across)
    down = np.array([-right[1], right[0]])
    half = unit * np.array([rng.uniform(0.34, 0.46), rng.uniform(0.22, 0.38)])
    # A turned head narrows both lenses.
    half[0] *= min(1.0, np.hypot(*across) / unit + 0.1)
    centres = (
        eyes + down * unit * rng.uniform(-0.02, 0.14) + np.outer([-1, 1], right) * unit * rng.uniform(-0.03, 0.06)
    )
    power = rng.choice([2.0, 2.5, 3.5, 6.0])
    lenses = [
        _to_zoom(_lens(centre, half, right, down, power, rng_sign), zoom) for centre, rng_sign in zip(centres, (-1, 1))
    ]
    frame, lens = np.zeros((2, zoom * size, zoom * size), np.uint8)
    thick = max(1, round(zoom * unit * rng.choice([0.02, 0.03, 0.05, 0.09, 0.13])))
    rim = rng.choice(["full", "full", "full", "upper", "none"])
    for outline in lenses:
        cv2.fillPoly(lens, [outline], 255, cv2.LINE_AA)
        if rim != "none":
            half_way = len(outline) // 2
            part = outline if rim == "full" else outline[half_way:]
            cv2.polylines(frame, [part], rim == "full", 255, thick, cv2.LINE_AA)
    height = down * half[1] * rng.uniform(-0.6, 0.1)
    inner = centres[0] + right * half[0] + height, centres[1] - right * half[0] + height
    middle = 0.5 * (inner[0] + inner[1]) - down * unit * rng.uniform(0.0, 0.08)
    cv2.polylines(frame, [_to_zoom(np.stack([inner[0], middle, inner[1]]), zoom)], False, 255, thick, cv2.LINE_AA)
    for centre, sign, jaw in ((centres[0], -1, points[0]), (centres[1], 1, points[16])):
        start = centre + sign * right * half[0] + height
        if (jaw - start) @ right * sign > 0:
            end = start + (jaw - start) * np.array(rng.uniform(0.8, 1.2)) * np.abs(right)
            cv2.polylines(frame, [_to_zoom(np.stack([start, end]), zoom)], False, 255, thick, cv2.LINE_AA)
    frame_alpha, lens_alpha = (
        cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
        for layer in (frame, lens)
    )
    opaque = rng.random() < 0.12
    pixels = _through_lenses(image.astype(np.float32), lens_alpha[..., None], opaque, rng)
    shadow = cv2.GaussianBlur(np.roll(frame_alpha, 1, axis=0), (0, 0), 1.0)[..., None]
    pixels *= 1.0 - rng.uniform(0.0, 0.35) * shadow
    alpha = rng.uniform(0.75, 1.0) * frame_alpha[..., None]
    pixels += alpha * (_frame_colours(size, rng) - pixels)
    others = np.where(lens_alpha > 0.5, GLASSES if opaque else LENS, others)
    others = np.where(frame_alpha > 0.3, GLASSES, others)
    return np.rint(pixels).clip(0, 255).astype(np.uint8), others.astype(np.uint8)


def _lens(
    centre: np.ndarray, half: np.ndarray, right: np.ndarray, down: np.ndarray, power: float, outer: int
) -> np.ndarray:
    """(48, 2) outline of a lens: a superellipse, lower half first, narrower towards the nose."""
    angle = np.linspace(0.0, 2.0 * np.pi, 48, endpoint=False)
    x, y = (np.sign(wave) * np.abs(wave) ** (2.0 / power) for wave in (np.cos(angle), np.sin(angle)))
    x = x * (1.0 - 0.12 * np.clip(y, 0.0, 1.0) * (np.sign(x) != outer))
    return centre + np.outer(half[0] * x, right) + np.outer(half[1] * y, down)


def _to_zoom(points: np.ndarray, zoom: int) -> np.ndarray:
    """Points in pixels of the enlarged canvas, as OpenCV's integers."""
    return np.rint(zoom * (points + 0.5) - 0.5).astype(np.int32)


def _through_lenses(pixels: np.ndarray, lens: np.ndarray, opaque: bool, rng: np.random.Generator) -> np.ndarray:
    """Tint the lenses and add reflections: a bright oblique stripe or a soft glare."""
    size = len(pixels)
    tint = rng.uniform(0.75, 1.0) if rng.random() < 0.5 else 1.0
    if opaque:
        colour = rng.uniform(5, 60) + rng.normal(0.0, 8.0, 3)
        pixels = pixels + rng.uniform(0.88, 1.0) * lens * (colour - pixels)
    else:
        pixels = pixels * (1.0 - (1.0 - tint) * lens)
    if rng.random() < 0.5:
        y, x = np.mgrid[:size, :size]
        angle, period = rng.uniform(0.3, 1.2), rng.uniform(12.0, 40.0)
        phase = (np.cos(angle) * x + np.sin(angle) * y) / period + rng.random()
        stripe = np.clip((np.cos(2.0 * np.pi * phase) - rng.uniform(0.2, 0.9)) * 4.0, 0.0, 1.0)[..., None]
        pixels = pixels + rng.uniform(0.1, 0.6) * stripe * lens * (rng.uniform(190, 255) - pixels)
    return pixels


def _frame_colours(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) float32: dark plastic, coloured plastic or bright metal with highlights."""
    kind = rng.random()
    if kind < 0.5:
        colour = rng.uniform(5, 60) + rng.normal(0.0, 6.0, 3)
    elif kind < 0.7:
        colour = rng.uniform(20, 200, 3)
    else:
        colour = rng.uniform(90, 220) * np.array([1.0, rng.uniform(0.85, 1.0), rng.uniform(0.6, 1.0)])
    shade = cv2.resize(rng.normal(0.0, 25.0, (12, 12)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(colour + shade[..., None], 0, 255).astype(np.float32)
