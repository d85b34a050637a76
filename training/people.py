"""Fit the identity prior: the distribution of a recognizer's embeddings, for random identities.

    python -m training.people --model nullface_pipeline/tiny

It writes `people.npz` beside the recognizer: mean, principal axes and residual deviation of the
embeddings of the training people, but no single one. Run it again when the recognizer changes.
"""

import numpy as np
import torch
from rich.progress import track

from nullface_pipeline.face_identity import embed_face, load_face_analyser
from nullface_pipeline.identity_prior import PRIOR_FILE, IdentityPrior
from training.loop import option_parser
from training.portraits import load_portraits


def main() -> None:
    parser = option_parser(__doc__, "data", "model")
    parser.add_argument("--count", type=int, default=1000, help="number of training people")
    parser.add_argument("--axes", type=int, default=48, help="number of principal axes")
    args = parser.parse_args()
    analyser = load_face_analyser(args.model / "face_models")
    portraits = load_portraits(args.data, "train")
    chosen = [portraits[index] for index in np.linspace(0, len(portraits) - 1, args.count).astype(int)]
    embeddings = [embed_face(analyser, p.image(), p.keypoints()) for p in track(chosen, "embedding")]
    prior = IdentityPrior.fit(torch.from_numpy(np.stack(embeddings)), args.axes)
    path = args.model / "face_models" / PRIOR_FILE
    prior.save(path)
    lengths = prior.axes.square().sum(dim=1)
    total = lengths.sum() + prior.rest**2 * (prior.axes.shape[1] - args.axes)
    print(f"{path}: {path.stat().st_size / 1024:.0f} kB, {100 * lengths.sum() / total:.0f} % of the variance in axes")


if __name__ == "__main__":
    main()
