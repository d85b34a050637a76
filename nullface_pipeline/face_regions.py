"""Names of the regions of a face. Imports no torch, so that a wrong name is reported at once.

Label names are those of CelebAMask-HQ. Every region takes both sides, so that it does not matter
which is left or right.
"""

from collections.abc import Iterable

from .photo_records import OptionError


# The 19 classes in the order in which facexlib's BiSeNet numbers them.
CELEBAMASK_LABELS = (
    "background",
    "skin",
    "l_brow",
    "r_brow",
    "l_eye",
    "r_eye",
    "eye_g",
    "l_ear",
    "r_ear",
    "ear_r",
    "nose",
    "mouth",
    "u_lip",
    "l_lip",
    "neck",
    "neck_l",
    "cloth",
    "hair",
    "hat",
)

REGIONS: dict[str, tuple[str, ...]] = {
    "eyes": ("l_eye", "r_eye"),
    "brows": ("l_brow", "r_brow"),
    "nose": ("nose",),
    "mouth": ("mouth", "u_lip", "l_lip"),
    "lips": ("u_lip", "l_lip"),
    "ears": ("l_ear", "r_ear", "ear_r"),
    "glasses": ("eye_g",),
    "skin": ("skin",),
    "hair": ("hair",),
    "hat": ("hat",),
    "neck": ("neck", "neck_l"),
    "clothes": ("cloth",),
    "background": ("background",),
}

# The face: regions that may change unless they are kept.
FACE_REGIONS = ("skin", "brows", "eyes", "glasses", "nose", "mouth", "ears")


def check_kept_regions(regions: Iterable[str]) -> None:
    """Raise OptionError unless `regions` are keys of `REGIONS` without the skin."""
    if isinstance(regions, str):
        raise OptionError("keep", f"must be a list or tuple of region names, for example ({regions!r},).")
    unknown = [region for region in regions if region not in REGIONS]
    if unknown:
        raise OptionError("keep", f"holds unknown regions {unknown}. The regions are {', '.join(REGIONS)}.")
    if "skin" in regions:
        raise OptionError("keep", "must not hold the skin: the person would stay recognizable.")
