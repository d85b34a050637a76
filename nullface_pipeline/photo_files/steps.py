"""Steps of one photo, in a folder or in a shard: decode, anonymize, encode.

Each step is a function of its own, so that the next photo can be read and the last one written while the model works.
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
    """Decoded photo, and the hash of its file."""

    file: PhotoFile
    original: str


@dataclass(frozen=True)
class ProcessedPhoto:
    """Outcome of one photo, and the picture to be written if there is one.

    Attributes:
        status, reason, faces, not_hidden: as of `PhotoOutcome`.
    """

    status: str
    reason: str = ""
    faces: tuple[FaceRecord, ...] = ()
    not_hidden: bool = False
    image: PIL.Image.Image | None = None
    read: DecodedPhoto | None = None


def decode_photo(load: Callable[[], bytes]) -> DecodedPhoto | PhotoFileError:
    """Decode and hash a file that is loaded once."""
    try:
        data = load()
        return DecodedPhoto(read_photo(io.BytesIO(data)), digest(data))
    except PhotoFileError as error:
        return error
    except OSError as error:
        return PhotoFileError(f"It cannot be read ({format_error(error, name_file=False)}): check its permissions.")
    except MemoryError as error:
        return PhotoFileError(f"{format_error(error)}.")


def process_photo(anonymize: Anonymize, name: str, read: DecodedPhoto | PhotoFileError) -> ProcessedPhoto:
    """Run one photo through the model. Any error refuses the photo."""
    if isinstance(read, PhotoFileError):
        return ProcessedPhoto("refused", str(read))
    try:
        result = anonymize(read.file, name)
    except PhotoRefusedError as error:
        return ProcessedPhoto("refused", str(error), not_hidden=isinstance(error, FaceNotHiddenError))
    # An error of a library in one photo must not stop the others.
    except Exception as error:
        if is_broken_device(error):
            raise
        return ProcessedPhoto("refused", f"It could not be processed. {format_error(error)}.")
    covered = any(face.method == "covered" for face in result.faces)
    return ProcessedPhoto("covered" if covered else "anonymized", faces=result.faces, image=result.image, read=read)


def encode_result(
    image: PIL.Image.Image, read: DecodedPhoto, keep_metadata: bool, options: str
) -> tuple[bytes, ResultHashes]:
    """Encode the result, and hash it.

    Raises:
        PhotoFileError: if it cannot be encoded, or would be the original.
    """
    data = encode_photo(image, read.file, keep_metadata)
    hashes = ResultHashes(read.original, options, digest(data))
    if hashes.result == hashes.original:
        raise PhotoFileError("The result would be the original, byte by byte: nothing was written.")
    return data, hashes
