"""The settings of the paper's tables and figures. `paper_pictures` makes their pictures.

T = 100, 70 steps skipped, lambda_id = 1, the mask from step 80 on, unless a figure sweeps it. Figures sweep over the whole
face. Where the paper only shows the ends of a sweep, the points between are this project's.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nullface_pipeline.evaluation.pairs import photos_by_name


PAPER_STEPS = 100

# Photos of the paper's test sets.
DATA_SETS = {"celeba-hq": 4852, "ffhq": 4722}

# Photos of tables 2 and 3, drawn from the set. Which ones the paper drew was not found published.
SUBSET = 1000


@dataclass(frozen=True)
class Setting:
    """One way of anonymizing: a row of a table, or a point of a figure.

    Attributes:
        name (`str`): of the row, and of the folder of its pictures.
        keep (`tuple[str, ...]`): regions that stay; the face around them changes.
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

# In the order of what is left of a person.
REGION_SETS = (
    ("eyes", "nose"),
    ("eyes", "mouth"),
    ("nose", "mouth"),
    ("eyes",),
    ("nose",),
    ("mouth",),
    (),
)

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

# Re-identified photos of table 1 as far as they follow from its percentages, by data set.
REPORTED = {
    "celeba-hq": {"NullFace": "0.21 % (10 of 4,852)", "FALCO": "0.10 % (5 of 4,852)", "DP2": "0.84 %"},
    "ffhq": {"NullFace": "0.34 % (16 of 4,722)", "RiDDLE": "0.51 % (24 of 4,722)"},
}


def asked_settings(table: int | None, figure: int | None) -> tuple[Setting, ...]:
    """Those of one table or one figure; raises ValueError for none, both, or a figure that has none."""
    if (table is None) == (figure is None):
        raise ValueError("Name one table with --table, or one figure with --figure.")
    if table is not None:
        return TABLES[table]
    if figure == 10:
        raise ValueError(
            "Figure 10 tries to undo results: use --reversal-attack with --method instead of --figure 10."
        )
    if figure not in FIGURES:
        raise ValueError(f"--figure {figure} is not measured here; {', '.join(map(str, FIGURES))} are.")
    return FIGURES[figure]


def draw_photos(images: Path, data_set: str, table: int | None, num_subjects: int | None) -> list[Path]:
    """The photos to anonymize, always the same ones of a folder.

    Args:
        num_subjects (`int`, *optional*): how many to draw, of any set; by default the whole of the paper's for table 1, and
            `SUBSET` of it else.

    Raises:
        ValueError: if the folder does not hold the paper's set, or fewer photos than asked for.
    """
    photos = list(photos_by_name(images).values())
    if num_subjects is None and len(photos) != DATA_SETS[data_set]:
        raise ValueError(
            f"{images} holds {len(photos)} photos; the paper's set of {data_set} has {DATA_SETS[data_set]}. Give "
            "--num-subjects to draw so many of another set."
        )
    count = num_subjects or (len(photos) if table == 1 else SUBSET)
    if count > len(photos):
        raise ValueError(f"--num-subjects {count}: {images} holds {len(photos)} photos.")
    return sorted(random.Random(0).sample(photos, count))


def reported(data_set: str) -> Iterator[str]:
    """A line for each figure of the paper, so that nobody takes them for measured here."""
    for method, rate in REPORTED[data_set].items():
        yield f"reported by the paper, rank 1 on {data_set}: {method} {rate}"
