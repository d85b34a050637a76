"""Seed of each photo, derived from the secret seed and the photo's name."""

import os

from nullface_pipeline.photo_options import keyed_number


# A face's number and 1000 per attempt are added to a photo's seed; the sum must fit into 63 bits.
SEED_BITS = 62


def photo_seed(seed: int, name: str) -> int:
    """Derive the seed of one photo: keyed BLAKE2b of its name, 0 to 2**62 - 1.

    The probability that any two of 100 million photos share a seed is about 0.1 %.

    Args:
        seed (`int`): secret seed of the run, 0 to 2**63 - 1.
        name (`str`): unique name of the photo: its path in the output folder, or its row.
    """
    return keyed_number(seed, os.fsencode(name)) >> (64 - SEED_BITS)
