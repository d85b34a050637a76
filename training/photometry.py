"""Random photographic styles, and the measure that identifies colour photographs."""

import cv2
import numpy as np


MIN_CHROMA_SPREAD = 6.0  # `chroma_spread` of a colour photograph
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
SEPIA = np.array([1.07, 0.98, 0.82], dtype=np.float32)


def random_style(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the colours, contrast and brightness of an (H, W, 3) uint8 RGB photo at random."""
    pixels = image.astype(np.float32) / 255.0
    tone = rng.random()
    if tone < 0.08:
        pixels = np.repeat(pixels @ LUMA[:, None], 3, axis=2)
    elif tone < 0.12:
        pixels = pixels @ LUMA[:, None] * (1.0 + rng.uniform(0.3, 1.3) * (SEPIA - 1.0))
    elif tone < 0.7:
        saturation, warmth = rng.uniform(0.6, 1.3), rng.uniform(-0.08, 0.08)
        grey = pixels @ LUMA[:, None]
        pixels = (grey + saturation * (pixels - grey)) * np.array([1 + warmth, 1.0, 1 - warmth], dtype=np.float32)
    if rng.random() < 0.6:
        contrast, brightness, gamma = rng.uniform(0.75, 1.2), rng.uniform(-0.08, 0.08), rng.uniform(0.8, 1.25)
        pixels = np.clip(pixels, 0.0, 1.0) ** gamma
        pixels = (pixels - 0.5) * contrast + 0.5 + brightness
    return np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)


def chroma_spread(crop: np.ndarray) -> float:
    """Chroma deviation of an (H, W, 3) uint8 crop: small for grey photos and tinted prints."""
    chroma = cv2.cvtColor(crop, cv2.COLOR_RGB2LAB)[..., 1:].astype(np.float32)
    return float(np.sqrt(chroma.var(axis=(0, 1)).sum()))
