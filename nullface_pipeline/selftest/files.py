"""Integrity of weight files, checked without a network.

nullface-tiny has its own list of hashes. Other weights are compared with the hashes in this
package. Files in the Hub's cache without one are named by their hash on the Hub: SHA-256 for large
files, Git's hash for small ones.
"""

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name

from nullface_pipeline.face_parsing import BISENET_SHA256, bisenet_path
from nullface_pipeline.fetch_weights import has_hash
from nullface_pipeline.selftest.findings import Finding, part_of_file
from nullface_pipeline.tiny_model import TINY_FOLDER
from nullface_pipeline.weights import BUFFALO_L, WEIGHT_SETS, HubWeights


HASH_LIST = "SHA256SUMS"


def check_files(name: str) -> Iterator[Finding]:
    """Yield a finding for each missing or changed file, and one for the total."""
    hashes = dict(tiny_hashes() if name == "tiny" else published_hashes(name))
    wrong = [path for path, expected in hashes.items() if not has_hash(path, expected)]
    for path in wrong:
        problem = "differs from the published file" if path.is_file() else "is missing"
        yield Finding(part_of_file(path.as_posix()), path.name, f"{problem}: {path}", False)
    if hashes:
        yield Finding("files", "hashes as published", f"{len(hashes) - len(wrong)} of {len(hashes)}", not wrong)


def tiny_hashes() -> Iterator[tuple[Path, str]]:
    """Yield path and SHA-256 of each file of nullface-tiny, from its list."""
    for line in (TINY_FOLDER / HASH_LIST).read_text(encoding="utf-8").splitlines():
        sha256, path = line.split(maxsplit=1)
        yield TINY_FOLDER / path, sha256


def published_hashes(name: str) -> Iterator[tuple[Path, str]]:
    """Yield path and hash of each file in the caches of the Hub, torch and InsightFace."""
    for weights in WEIGHT_SETS[name]:
        if not isinstance(weights, HubWeights):
            continue
        folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=weights.source, repo_type="model")
        for path in sorted(folder.glob("snapshots/*/**/*")):
            committed = weights.files.get("/".join(path.relative_to(folder).parts[2:]))
            # On systems without symbolic links, the Hub's hash is unknown.
            if committed or path.is_symlink():
                yield path, committed or path.resolve().name
    if bisenet_path().is_file():
        yield bisenet_path(), BISENET_SHA256
    for path in sorted(BUFFALO_L.place.glob("*.onnx")):
        yield path, BUFFALO_L.unpacked.get(path.name, "")
