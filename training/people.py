"""How a recognizer's embeddings of people are spread, for the strangers that faces are turned to.

    python -m training.people --model nullface_pipeline/tiny

Writes `people.npz` beside the recognizer: mean, main axes and the rest, of its embeddings of the training people.
No person is in it, only what they have in common. To be made again whenever the recognizer changes.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from nullface_pipeline.face_identity import embed_face, load_face_analyser
from nullface_pipeline.identity_prior import PRIOR_FILE, IdentityPrior
from nullface_pipeline.tiny_model import TINY_FOLDER
from training.portraits import load_portraits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--model", type=Path, default=TINY_FOLDER, help="folder of the model set")
    parser.add_argument("--count", type=int, default=1000, help="training people")
    parser.add_argument("--axes", type=int, default=48)
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
    print(
        f"{path}: {path.stat().st_size / 1024:.0f} kB, {100 * lengths.sum() / total:.0f} % of the variance in the axes"
    )


if __name__ == "__main__":
    main()
