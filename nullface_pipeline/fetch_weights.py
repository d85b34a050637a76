"""Weights onto this machine, with their hashes compared; what is interrupted goes on where it stopped."""

import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.file_download import http_get

from nullface_pipeline.weights import HubWeights, ReleaseWeights, Weights, missing_weights, readable_size


def fetch_missing(name: str) -> None:
    """Fetch what is missing of a set of `WEIGHT_SETS`.

    Raises:
        OSError: if that does not work; it says in one sentence what is missing, how large it is and how to fetch it.
    """
    for weights in missing_weights(name):
        try:
            fetch_weights(weights)
        except (HTTPError, OSError, ValueError) as error:
            missing = missing_weights(name)
            size = readable_size(sum(part.size for part in missing))
            raise OSError(
                f"Not on this machine, and could not be fetched: {', '.join(part.name for part in missing)}, {size}; run "
                f"`nullface fetch {name}` where there is a network."
            ) from error


def fetch_weights(weights: Weights) -> None:
    """Fetch weights, or what is missing of them, and compare all of them with the published hashes.

    Raises:
        OSError: if something cannot be fetched or written, or a hash is another; that file is deleted.
        HTTPError: (of httpx2) if a server refuses or cannot be reached.
    """
    if isinstance(weights, HubWeights):
        _fetch_from_hub(weights)
    else:
        _fetch_release(weights)


def _fetch_from_hub(weights: HubWeights) -> None:
    """By the Hub's own client, which fetches whole files again that are not complete."""
    snapshot_download(weights.source, allow_patterns=[*weights.files, *weights.small_files])
    verified = HfApi().verify_repo_checksums(weights.source)
    for mismatch in verified.mismatches:
        file = verified.verified_path / mismatch["path"]
        file.resolve().unlink(missing_ok=True)
        file.unlink(missing_ok=True)
    if verified.mismatches:
        raise OSError(_changed(verified.mismatches[0]["path"]))
    if weights.path is None:
        raise OSError(f"{weights.source} does not hold all of {', '.join(weights.files)}.")


def _fetch_release(weights: ReleaseWeights) -> None:
    if weights.path is not None and weights.place.is_dir():
        return  # of an unpacked archive there is nothing to compare with
    if weights.path is not None:
        _compare(weights.place, weights)
        return
    # Beside its place, and kept when interrupted.
    part = weights.place.with_name(f"{weights.place.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if part.is_file() and part.stat().st_size > weights.size:
        part.unlink()  # of another file
    with part.open("ab") as file:
        http_get(weights.source, file, resume_size=file.tell(), expected_size=weights.size)
    _compare(part, weights)
    if weights.source.endswith(".zip"):
        _unpack(part, weights.place)
        part.unlink()
    else:
        part.replace(weights.place)


def _compare(file: Path, weights: ReleaseWeights) -> None:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != weights.sha256:
        file.unlink()
        raise OSError(_changed(weights.source))


def _changed(name: str) -> str:
    return f"{name} is not what was published: its hash is another. It was deleted; fetch it again."


def _unpack(archive: Path, folder: Path) -> None:
    """The whole folder or none: one that is there counts as complete."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(temporary)
        if folder.is_dir():
            folder.rmdir()  # left empty by an unpacking that failed
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
