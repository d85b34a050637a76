"""Test faces from the photos in scikit-image and InsightFace."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from nullface_pipeline.face_identity import FaceLocation, locate_faces
from nullface_pipeline.protocols import FaceAnalyser


# Eyes, nose and mouth corners of scikit-image's astronaut, (5, 2) pixels, by dlib.
ASTRONAUT_LANDMARKS = np.array([[203.3, 101.5], [247.0, 103.7], [225.0, 127.0], [200.0, 139.0], [246.0, 141.0]])

# Photos in InsightFace, with the number of people in each.
GROUPS = {"t1.jpg": 6, "Tom_Hanks_54745.png": 1}


@dataclass(frozen=True, eq=False)
class Person:
    """Face in an (H, W, 3) uint8 RGB photo, as detected."""

    photo: np.ndarray
    face: FaceLocation


def astronaut() -> np.ndarray:
    """Portrait of scikit-image, (512, 512, 3) uint8 RGB."""
    from skimage import data

    return data.astronaut()


def group_photos() -> Iterator[tuple[np.ndarray, int]]:
    """Yield (H, W, 3) uint8 RGB photos, and the number of people in each."""
    import insightface

    folder = Path(insightface.__file__).parent / "data" / "images"
    for name, count in GROUPS.items():
        if (folder / name).is_file():
            yield np.asarray(PIL.Image.open(folder / name).convert("RGB")), count


def find_people(analyser: FaceAnalyser) -> list[Person]:
    """Detect all faces in the photos, the astronaut's first."""
    photos = [astronaut(), *(photo for photo, _ in group_photos())]
    return [Person(photo, face) for photo in photos for face in locate_faces(analyser, photo)]


def mirrored(person: Person) -> Person:
    """Mirror a person."""
    x = person.photo.shape[1] - 1 - person.face.landmarks[:, 0]
    # Left and right landmarks change places.
    landmarks = np.stack([x, person.face.landmarks[:, 1]], axis=1)[[1, 0, 2, 4, 3]]
    face = FaceLocation(person.face.box, landmarks.astype(np.float32), person.face.score)
    return Person(np.ascontiguousarray(person.photo[:, ::-1]), face)


def darker(person: Person) -> Person:
    """Darken a person."""
    return Person((0.6 * person.photo).astype(np.uint8), person.face)
