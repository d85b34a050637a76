"""Loading of the available utility metrics."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from nullface_pipeline.evaluation import attributes, quality
from nullface_pipeline.evaluation.measures import FaceMeasure, PairMeasure, SetMeasure
from nullface_pipeline.evaluation.recognizers import load_available
from nullface_pipeline.evaluation.run import Measures


WEIGHTS = ("pose", "gaze", "3dmm", "lpips", "inception", "musiq")


def load_measures(weights: Mapping[str, Path]) -> tuple[Measures, dict[str, str]]:
    """Load the available metrics; returns them, and what the others need by name.

    Args:
        weights (`Mapping[str, Path]`): files by name in `WEIGHTS`.
    """
    face_makers: dict[str, Callable[[], FaceMeasure]] = {
        attributes.HeadPose.name: partial(attributes.HeadPose, weights.get("pose")),
        attributes.Gaze.name: partial(attributes.Gaze, weights.get("gaze")),
        attributes.Expression3DMM.name: partial(attributes.Expression3DMM, weights.get("3dmm")),
        attributes.Landmarks.name: attributes.Landmarks,
        attributes.ExpressionLandmarks.name: attributes.ExpressionLandmarks,
        attributes.MouthOpening.name: attributes.MouthOpening,
        attributes.EyeOpening.name: attributes.EyeOpening,
    }
    pair_makers: dict[str, Callable[[], PairMeasure]] = {
        quality.SSIM.name: quality.SSIM,
        quality.LPIPS.name: partial(quality.LPIPS, weights.get("lpips")),
    }
    set_makers: dict[str, Callable[[], SetMeasure]] = {
        quality.FIDAndKID.name: partial(quality.FIDAndKID, weights.get("inception")),
        quality.MUSIQ.name: partial(quality.MUSIQ, weights.get("musiq")),
    }
    faces, faces_not_run = load_available(face_makers)
    pairs, pairs_not_run = load_available(pair_makers)
    sets, sets_not_run = load_available(set_makers)
    return Measures(faces, pairs, sets), faces_not_run | pairs_not_run | sets_not_run


def read_weights(values: Sequence[str]) -> dict[str, Path]:
    """Parse values `NAME=FILE`; raises ValueError for an unknown name or a missing file."""
    files = {}
    for value in values:
        name, _, file = value.partition("=")
        if name not in WEIGHTS:
            raise ValueError(
                f"--weights {value} has an unknown name. Pass NAME=FILE, with one of {', '.join(WEIGHTS)}."
            )
        if not Path(file).is_file():
            raise ValueError(f"--weights {value}: the file {file} does not exist. Pass NAME=FILE.")
        files[name] = Path(file)
    return files
