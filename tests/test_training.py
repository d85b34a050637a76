"""The maths behind nullface-tiny's training that can be checked without training."""

import numpy as np

from training.pose_erasure import erasing_projection


def test_erased_directions_can_no_longer_be_told():
    rng = np.random.default_rng(0)
    concept = rng.standard_normal((500, 3))
    concept -= concept.mean(axis=0)
    embeddings = rng.standard_normal((500, 20)) @ rng.standard_normal((20, 20)) + concept @ rng.standard_normal(
        (3, 20)
    )
    projection = erasing_projection(embeddings, concept)
    erased = embeddings @ projection
    before, after = (np.abs((x - x.mean(axis=0)).T @ concept).max() / len(concept) for x in (embeddings, erased))
    assert before > 0.5 and after < 1e-9
    assert np.linalg.matrix_rank(projection) == 17, "three directions and no more"
    assert np.allclose(projection @ projection, projection)
