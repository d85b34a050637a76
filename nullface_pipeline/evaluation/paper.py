"""Settings of the paper's tables and figures.

T = 100, 70 skipped steps, lambda_id = 1, and the mask from step 80 on, unless a figure sweeps it.
Figures use the whole face. If the paper shows only the ends of a sweep, the points between are this
project's.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nullface_pipeline.evaluation.pairs import photos_by_name


PAPER_STEPS = 100

# Number of photos in the paper's test sets.
DATA_SETS = {"celeba-hq": 4852, "ffhq": 4722}

# Number of photos for tables 2 and 3. The paper's selection was not found published.
SUBSET = 1000


@dataclass(frozen=True)
class Setting:
    """Settings of one row of a table or one point of a figure.

    Attributes:
        name (`str`): name of the row, and of the folder of its results.
        keep (`tuple[str, ...]`): regions kept unchanged.
        guidance_scale (`float`): lambda_cfg.
        identity_scale (`float`): lambda_id.
        skip (`float`): T_skip / T.
        mask_start (`float`): share of T from which on the mask is applied.
    """

    name: str
    keep: tuple[str, ...] = ()
    guidance_scale: float = 10.0
    identity_scale: float = 1.0
    skip: float = 0.7
    mask_start: float = 0.8


EYES_AND_MOUTH = Setting("NullFace", keep=("eyes", "mouth"))
WHOLE_FACE = Setting("NullFace, whole face")

# In the order of the paper: most identifiable first.
REGION_SETS = (("eyes", "nose"), ("eyes", "mouth"), ("nose", "mouth"), ("eyes",), ("nose",), ("mouth",), ())

TABLES = {
    1: (EYES_AND_MOUTH,),
    2: (WHOLE_FACE,),
    3: tuple(
        Setting(f"{' and '.join(keep)} kept" if keep else "whole face", keep=keep, guidance_scale=7.0)
        for keep in REGION_SETS
    ),
}

FIGURES = {
    3: tuple(Setting(f"skip {value:g}", skip=value) for value in (0.0, 0.3, 0.5, 0.7, 0.9)),
    4: tuple(Setting(f"identity scale {value:g}", identity_scale=value) for value in (0.0, 0.33, 0.67, 1.0)),
    5: tuple(Setting(f"guidance {value:g}", guidance_scale=value) for value in (5.0, 10.0, 15.0, 20.0)),
    11: tuple(Setting(f"guidance {value:g}", guidance_scale=value) for value in (2.5, 5.0, 7.5, 10.0)),
    12: tuple(
        Setting(f"{region} kept, mask from {100 * start:.0f}", keep=(region,), mask_start=start)
        for region in ("eyes", "mouth")
        for start in (0.7, 0.8, 0.9)
    ),
}

# Rates of table 1 by data set, with the counts that they imply.
REPORTED = {
    "celeba-hq": {"NullFace": "0.21 % (10 of 4,852)", "FALCO": "0.10 % (5 of 4,852)", "DP2": "0.84 %"},
    "ffhq": {"NullFace": "0.34 % (16 of 4,722)", "RiDDLE": "0.51 % (24 of 4,722)"},
}


def select_settings(table: int | None, figure: int | None) -> tuple[Setting, ...]:
    """Settings of one table or figure; raises ValueError for none, both or an unknown one."""
    if (table is None) == (figure is None):
        raise ValueError("Pass either --table or --figure.")
    if table is not None:
        return TABLES[table]
    if figure == 10:
        raise ValueError(
            "Figure 10 is the reversal attack: use --reversal-attack with --method instead of --figure 10."
        )
    if figure not in FIGURES:
        raise ValueError(f"--figure {figure} is not available. Pass one of {', '.join(map(str, FIGURES))}.")
    return FIGURES[figure]


def draw_photos(images: Path, data_set: str, table: int | None, num_subjects: int | None) -> list[Path]:
    """Draw the photos to anonymize, always the same ones.

    Args:
        num_subjects (`int`, *optional*): number of photos, which allows any set. By default all
            photos of the paper's set for table 1, `SUBSET` otherwise.

    Raises:
        ValueError: if the folder does not hold the paper's set, or too few photos.
    """
    photos = list(photos_by_name(images).values())
    if num_subjects is None and len(photos) != DATA_SETS[data_set]:
        raise ValueError(
            f"{images} has {len(photos)} photos, but the paper's set of {data_set} has {DATA_SETS[data_set]}. Pass "
            "--num-subjects to use another set."
        )
    count = num_subjects or (len(photos) if table == 1 else SUBSET)
    if count > len(photos):
        raise ValueError(f"--num-subjects is {count}, but {images} has only {len(photos)} photos.")
    return sorted(random.Random(0).sample(photos, count))


def reported(data_set: str) -> Iterator[str]:
    """One line for each published rate, marked as reported."""
    for method, rate in REPORTED[data_set].items():
        yield f"reported by the paper, rank 1 on {data_set}: {method} {rate}"
