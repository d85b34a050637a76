"""Detector, recognizers and measures with a cache on disk."""

import hashlib
from dataclasses import dataclass

import numpy as np

from nullface_pipeline import __version__
from nullface_pipeline.evaluation.baselines import face_mask
from nullface_pipeline.evaluation.cache import Cache
from nullface_pipeline.evaluation.measures import FaceMeasure, PairMeasure
from nullface_pipeline.evaluation.pairs import Picture
from nullface_pipeline.evaluation.recognizers import Detector, Recognizer
from nullface_pipeline.face_identity import FaceLocation


@dataclass(frozen=True, eq=False)
class CachedModels:
    """Runs models on images and caches their outputs."""

    detector: Detector
    cache: Cache
    quiet: bool = False

    def size_and_content(self, picture: Picture) -> tuple[tuple[int, int], bytes]:
        """(H, W) of an image and a digest of its pixels."""

        def make() -> np.ndarray:
            digest = hashlib.sha256(picture.pixels.tobytes()).digest()
            return np.array([*picture.pixels.shape[:2], *digest])

        height, width, *content = self.cache.remember(("content", picture.digest), make).tolist()
        return (height, width), bytes(content)

    def face(self, picture: Picture, landmarks: np.ndarray | None = None) -> FaceLocation | None:
        """Detect the face at (5, 2) landmarks; the largest face if there is none at them."""

        def make() -> np.ndarray:
            face = None if landmarks is None else self.detector.at(picture.pixels, landmarks)
            face = face or self.detector.largest(picture.pixels)
            return np.zeros(0) if face is None else np.array([*face.box, *face.landmarks.ravel(), face.score])

        where = b"" if landmarks is None else key_of(landmarks)
        found = self.cache.remember(("face", picture.digest, self.detector.fingerprint, where), make)
        if not len(found):
            return None
        found = found.astype(np.float32)
        return FaceLocation(found[:4], found[4:14].reshape(5, 2), float(found[14]))

    def embedding(self, recognizer: Recognizer, picture: Picture, landmarks: np.ndarray) -> np.ndarray:
        """Embed a face; (D,) float16."""
        made_from = ("embedding", picture.digest, recognizer.fingerprint, key_of(landmarks))
        return self.cache.remember(made_from, lambda: recognizer(picture.pixels, landmarks).astype(np.float16))

    def description(self, measure: FaceMeasure, picture: Picture, landmarks: np.ndarray) -> np.ndarray:
        """Describe a face by a measure."""
        made_from = ("description", measure.name, picture.digest, measure.fingerprint, key_of(landmarks))
        return self.cache.remember(made_from, lambda: np.asarray(measure(picture.pixels, landmarks)))

    def pair(self, measure: PairMeasure, original: Picture, result: Picture, face: FaceLocation) -> float:
        """Compare an original and its result by a measure."""

        def make() -> np.ndarray:
            mask = face_mask(face, original.pixels.shape[:2])
            return np.array(measure(original.pixels, result.pixels, mask))

        made_from = ("pair", measure.fingerprint, __version__, original.digest, result.digest, key_of(face.box))
        return float(self.cache.remember(made_from, make))


def key_of(numbers: np.ndarray) -> bytes:
    """Landmarks or a box as bytes of a cache key."""
    return np.asarray(numbers, dtype=np.float32).tobytes()
