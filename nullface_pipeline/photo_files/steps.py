"""Steps of one photo in a folder or shard: decode, anonymize, encode.

The steps are separate functions, so that reading and writing overlap with the model.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import PIL.Image

from nullface_pipeline.photo_files import PhotoFile, PhotoFileError, encode_photo, read_photo
from nullface_pipeline.photo_records import AnonymizedPhoto, FaceNotHiddenError, FaceRecord, PhotoRefusedError
from nullface_pipeline.runs.digests import ResultHashes, digest
from nullface_pipeline.runs.messages import format_error, is_broken_device


Anonymize = Callable[[PhotoFile, str], AnonymizedPhoto]


@dataclass(frozen=True)
class DecodedPhoto:
    """Decoded photo, and the SHA-256 of its file."""

    file: PhotoFile
    original: str


@dataclass(frozen=True)
class ProcessedPhoto:
    """Outcome of one photo, and the picture to write unless it is refused.

    Attributes:
        status, reason, faces, not_hidden: see `PhotoOutcome`.
    """

    status: str
    reason: str = ""
    faces: tuple[FaceRecord, ...] = ()
    not_hidden: bool = False
    image: PIL.Image.Image | None = None
    decoded: DecodedPhoto | None = None


def decode_photo(load: Callable[[], bytes]) -> DecodedPhoto | PhotoFileError:
    """Load, decode and hash a file; errors are returned, not raised."""
    try:
        data = load()
        return DecodedPhoto(read_photo(io.BytesIO(data)), digest(data))
    except PhotoFileError as error:
        return error
    except OSError as error:
        return PhotoFileError(f"It cannot be read ({format_error(error, name_file=False)}): check its permissions.")
    except MemoryError as error:
        return PhotoFileError(f"{format_error(error)}.")


def process_photo(anonymize: Anonymize, name: str, decoded: DecodedPhoto | PhotoFileError) -> ProcessedPhoto:
    """Anonymize one photo. Any error except that of a broken device refuses the photo."""
    if isinstance(decoded, PhotoFileError):
        return ProcessedPhoto("refused", str(decoded))
    try:
        result = anonymize(decoded.file, name)
    except PhotoRefusedError as error:
        return ProcessedPhoto("refused", str(error), not_hidden=isinstance(error, FaceNotHiddenError))
    # An error of a library refuses this photo and does not stop the others.
    except Exception as error:
        if is_broken_device(error):
            raise
        return ProcessedPhoto("refused", f"It could not be processed. {format_error(error)}.")
    covered = any(face.method == "covered" for face in result.faces)
    return ProcessedPhoto(
        "covered" if covered else "anonymized", faces=result.faces, image=result.image, decoded=decoded
    )


def encode_result(
    image: PIL.Image.Image, decoded: DecodedPhoto, keep_metadata: bool, options: str
) -> tuple[bytes, ResultHashes]:
    """Encode and hash the result.

    Raises:
        PhotoFileError: if it cannot be encoded, or equals the original.
    """
    data = encode_photo(image, decoded.file, keep_metadata)
    hashes = ResultHashes(decoded.original, options, digest(data))
    if hashes.result == hashes.original:
        raise PhotoFileError("The result is identical to the original file: nothing was written.")
    return data, hashes
