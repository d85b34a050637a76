"""Seed of each photo, derived from the secret seed and the photo's name."""

import os

from nullface_pipeline.photo_options import keyed_number


# A face's number and 1000 an attempt are added to a photo's seed, and the sum has to fit into 63 bits.
SEED_BITS = 62


def photo_seed(seed: int, name: str) -> int:
    """Derive the seed of one photo: keyed BLAKE2b of its name, 0 to 2**62 - 1.

    Two of 100 million photos share one with a probability of about one in a thousand.

    Args:
        seed (`int`): the run's, 0 to 2**63 - 1. The photo's seed cannot be derived without it.
        name (`str`): what tells the photo from all others: its path in the output folder, or its row.
    """
    return keyed_number(seed, os.fsencode(name)) >> (64 - SEED_BITS)
