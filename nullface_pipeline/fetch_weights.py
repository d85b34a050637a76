"""Download of weights with their hashes verified; an interrupted download is resumed."""

import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import get_session
from huggingface_hub.utils.sha import git_hash

from nullface_pipeline.runs.messages import format_error
from nullface_pipeline.weights import (
    BUFFALO_L,
    PACKS,
    HubWeights,
    ReleaseWeights,
    Weights,
    missing_weights,
    readable_size,
)


# Base error of the Hub's HTTP client, which is requests, httpx or httpx2 depending on the version.
HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]

# Seconds to wait for a server.
CONNECT_TIMEOUT = 10.0


def fetch_missing(name: str) -> None:
    """Download the missing weights of a set of `WEIGHT_SETS`.

    Raises:
        OSError: if it fails. The message says what is missing, how large it is and how to download
            it.
    """
    for weights in missing_weights(name):
        try:
            fetch_weights(weights)
        except (OSError, ValueError) as error:
            missing = missing_weights(name)
            size = readable_size(sum(part.size for part in missing))
            raise OSError(
                f"{', '.join(part.name for part in missing)} ({size}) not found, and not downloaded "
                f"({format_error(error)}). Run `nullface fetch {name}` with a network connection, copy the files from "
                "another computer (docs/how-to/offline.md), or use the model tiny, which needs no download."
            ) from error


def fetch_weights(weights: Weights) -> None:
    """Download weights, or the missing files, and verify the hashes of `weights`.

    Raises:
        OSError: if a file cannot be downloaded or written, or has another hash. It is then deleted,
            unless it is in the folder of an unpacked archive.
    """
    try:
        if isinstance(weights, HubWeights):
            check_connection(constants.ENDPOINT)
            _fetch_from_hub(weights)
        else:
            _fetch_release(weights)
    except HTTPError as error:
        raise OSError(str(error) or type(error).__name__) from error


def check_connection(address: str) -> None:
    """Check that a server can be reached, because downloads without a network retry for a minute.

    Raises:
        OSError: if it cannot.
    """
    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    try:
        get_session().head(address, timeout=CONNECT_TIMEOUT)
    except (HTTPError, OSError) as error:
        server = urlsplit(address).netloc
        raise OSError(f"{server} cannot be reached, there seems to be no network connection") from error


def fetch_pack(name: str) -> None:
    """Download an InsightFace pack and verify its hash, which InsightFace itself does not do.

    Args:
        name (`str`): one of `PACKS`. A folder, or a pack on this machine, is left unchanged.

    Raises:
        OSError: if the pack cannot be downloaded, or its hash is not known.
    """
    if Path(name).is_dir() or (BUFFALO_L.place.parent / name).is_dir():
        return
    if name not in PACKS:
        raise OSError(
            f"The face models {name!r} were not downloaded, because no hash of that pack is known. Name one of "
            f"{', '.join(PACKS)}, or a folder."
        )
    fetch_weights(PACKS[name])


def is_known_pack(name: str) -> bool:
    """Whether an InsightFace pack can be downloaded and verified, or is on this machine."""
    return name in PACKS or bool(name) and (BUFFALO_L.place.parent / name).is_dir()


def unverified_files(weights: Weights) -> list[str]:
    """Files on this machine for which `weights` holds no hash, by name."""
    folder = weights.path
    if folder is None or folder.is_file():
        return []
    known = weights.files if isinstance(weights, HubWeights) else weights.unpacked
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return [name for name in names if name not in known]


def _fetch_from_hub(weights: HubWeights) -> None:
    """Download with the Hub's client, which downloads incomplete files again."""
    patterns = [*weights.files, *weights.small_files]
    folder = Path(snapshot_download(weights.source, revision=weights.revision, allow_patterns=patterns))
    if weights.path is None:
        raise OSError(f"{weights.source} does not hold all of {', '.join(weights.files)}.")
    changed = [name for name, expected in weights.files.items() if file_hash(folder / name) != expected]
    # No hash of the other files is known here, so they are compared with the Hub's.
    for entry in HfApi().list_repo_tree(weights.source, recursive=True, revision=weights.revision):
        if isinstance(entry, RepoFile) and (folder / entry.path).is_file():
            if not has_hash(folder / entry.path, entry.lfs.sha256 if entry.lfs else entry.blob_id):
                changed.append(entry.path)
    for name in changed:
        (folder / name).resolve().unlink(missing_ok=True)
        (folder / name).unlink(missing_ok=True)
    if changed:
        raise OSError(_changed(changed[0]))


def _fetch_release(weights: ReleaseWeights) -> None:
    if weights.path is not None and weights.place.is_dir():
        _compare_unpacked(weights)
        return
    if weights.path is not None:
        _compare(weights.place, weights)
        return
    check_connection(weights.source)
    # Kept if the download is interrupted.
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
    if file_hash(file) != weights.sha256:
        file.unlink()
        raise OSError(_changed(weights.source))


def _compare_unpacked(weights: ReleaseWeights) -> None:
    """InsightFace loads every ONNX file of the folder, so an unknown one counts as changed."""
    for file in sorted(weights.place.glob("*.onnx")) if weights.unpacked else ():
        if file_hash(file) != weights.unpacked.get(file.name):
            raise OSError(
                f"{file} does not have the published hash. Delete the folder {weights.place} and download it again."
            )


def file_hash(file: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def has_hash(file: Path, expected: str) -> bool:
    """Whether a file has the expected SHA-256, or Git hash if it has 40 digits."""
    if not file.is_file():
        return False
    if len(expected) == 40:
        return git_hash(file.read_bytes()) == expected
    return file_hash(file) == expected


def _changed(name: str) -> str:
    return f"{name} does not have the published hash. It was deleted; download it again."


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the whole folder or nothing, because an existing folder counts as complete."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.namelist():
                # Some packs hold a folder; InsightFace looks for models beside each other.
                if member.endswith(".onnx"):
                    (temporary / Path(member).name).write_bytes(opened.read(member))
        if folder.is_dir():
            folder.rmdir()  # left empty by a failed unpacking
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
