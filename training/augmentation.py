"""Identity-preserving augmentations: light, tone, print, damage and alignment.

Unless stated otherwise, functions take and return one (H, W, 3) uint8 RGB image and draw from a
`numpy.random.Generator`. A 112 px crop takes about a millisecond on a CPU.
"""

import math

import cv2
import numpy as np


SEPIA = np.array([1.0, 0.88, 0.70])


def random_style(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the tone of the whole image: grey, directional light, tint, exposure, contrast."""
    if rng.random() < 0.4:
        image = grayscale(image)
    if rng.random() < 0.5:
        image = directional_light(image, rng)
    return tone_curve(image, rng)


def random_damage(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Degrade detail as cameras, printers and compression do."""
    if rng.random() < 0.3:
        image = resample(image, rng)
    if rng.random() < 0.25:
        image = blur(image, rng, largest_sigma=0.02 * max(image.shape[:2]))
    if rng.random() < 0.15:
        image = halftone(image, rng)
    if rng.random() < 0.35:
        image = noise(image, rng)
    if rng.random() < 0.15:
        image = jpeg(image, rng)
    return image


def grayscale(image: np.ndarray) -> np.ndarray:
    """Repeat the luminance in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def tone_curve(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply gamma, contrast, brightness and a tint as one look-up table per channel."""
    value = np.linspace(0.0, 1.0, 256)
    value = value ** math.exp(rng.normal(0.0, 0.3))
    value = 0.5 + (value - 0.5) * math.exp(rng.normal(0.0, 0.3)) + rng.normal(0.0, 0.08)
    tint = np.exp(rng.normal(0.0, 0.06, size=3))
    if rng.random() < 0.25:
        tint = tint * (1.0 + rng.uniform(0.3, 1.0) * (SEPIA - 1.0))
    table = np.clip(value[:, None] * tint, 0.0, 1.0)
    return cv2.LUT(image, np.rint(255.0 * table).astype(np.uint8)[:, None, :])


def directional_light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brighten the image towards a random direction and darken the opposite side."""
    height, width = image.shape[:2]
    angle = rng.uniform(0.0, 2.0 * math.pi)
    strength = rng.uniform(0.1, 0.6)
    across = np.linspace(-1.0, 1.0, width, dtype=np.float32) * math.cos(angle)
    down = np.linspace(-1.0, 1.0, height, dtype=np.float32) * math.sin(angle)
    light = np.exp(np.float32(strength) * (down[:, None] + across[None, :]))
    return np.clip(image * light[..., None], 0, 255).astype(np.uint8)


def blur(image: np.ndarray, rng: np.random.Generator, largest_sigma: float) -> np.ndarray:
    """Blur by a Gaussian with a standard deviation of 0.4 to `largest_sigma` px."""
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, largest_sigma))


def resample(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shrink to 25 to 90 % of the side, then enlarge to the old size."""
    height, width = image.shape[:2]
    factor = rng.uniform(0.25, 0.9)
    small = cv2.resize(
        image, (max(8, int(width * factor)), max(8, int(height * factor))), interpolation=cv2.INTER_AREA
    )
    enlarge = cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_NEAREST
    return cv2.resize(small, (width, height), interpolation=enlarge)


def halftone(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Modulate the brightness by a rotated grid of printing dots with a period of 2 to 5 px."""
    height, width = image.shape[:2]
    angle, period = rng.uniform(0.0, math.pi / 2), rng.uniform(2.0, 5.0)
    y, x = np.mgrid[:height, :width].astype(np.float32) * np.float32(2.0 * math.pi / period)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    dots = np.cos(cos * x + sin * y) * np.cos(cos * y - sin * x)
    return np.clip(image + np.float32(rng.uniform(8.0, 40.0)) * dots[..., None], 0, 255).astype(np.uint8)


def noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of 2 to 20 grey levels, shared by the channels or independent."""
    channels = 1 if rng.random() < 0.5 else 3
    grain = rng.standard_normal((*image.shape[:2], channels), dtype=np.float32)
    return np.clip(image + np.float32(rng.uniform(2.0, 20.0)) * grain, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compress as JPEG with a quality of 15 to 70."""
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 71))])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))


def cut_out(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cover a rectangle of 10 to 40 % of each side with a flat colour."""
    height, width = image.shape[:2]
    h, w = (int(side * rng.uniform(0.1, 0.4)) for side in (height, width))
    y, x = int(rng.integers(0, height - h)), int(rng.integers(0, width - w))
    image = image.copy()
    image[y : y + h, x : x + w] = rng.integers(0, 256, size=3)
    return image


def random_similarity(
    rng: np.random.Generator, centre: tuple[float, float], degrees: float, log_scale: float, shift: float
) -> np.ndarray:
    """Random (2, 3) matrix that rotates and scales about `centre`, then shifts.

    Args:
        rng (`np.random.Generator`): source of randomness.
        centre (`tuple`): x and y in px.
        degrees, log_scale, shift (`float`): standard deviations of the rotation in degrees, of the
            logarithm of the scale, and of the shift in px.
    """
    matrix: np.ndarray = cv2.getRotationMatrix2D(
        centre, rng.normal(0.0, degrees), math.exp(rng.normal(0.0, log_scale))
    )
    matrix[:, 2] += rng.normal(0.0, shift, size=2)
    return matrix


def mirrored(image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror an image and its (68, 2) landmarks, which are reordered to the iBUG numbering."""
    order = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    order += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    order += [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
    flipped = landmarks[order].copy()
    flipped[:, 0] = image.shape[1] - 1 - flipped[:, 0]
    return np.ascontiguousarray(image[:, ::-1]), flipped


def smooth_mask(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size) float32 mask in [0, 1]: a random soft split, or one constant value."""
    if rng.random() < 0.4:
        return np.full((size, size), rng.uniform(0.3, 0.7), dtype=np.float32)
    field = cv2.resize(rng.standard_normal((4, 4), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return 1.0 / (1.0 + np.exp(-6.0 * field))
