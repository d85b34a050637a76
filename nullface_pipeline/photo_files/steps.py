"""What happens to a photo on its way, in a folder or in a shard of a data set: it is read, its faces are hidden, it is encoded.

Each step is a function of its own, so that the next photo can be read and the last one written while the model works.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import PIL.Image

from nullface_pipeline.photo_files import PhotoFile, PhotoFileError, encode_photo, read_photo
from nullface_pipeline.photo_records import AnonymizedPhoto, FaceNotHiddenError, FaceRecord, PhotoRefusedError
from nullface_pipeline.runs.digests import MadeFrom, digest
from nullface_pipeline.runs.messages import format_error, is_broken_device


Anonymize = Callable[[PhotoFile, str], AnonymizedPhoto]


@dataclass(frozen=True)
class ReadPhoto:
    """A photo, and the hash of its file."""

    file: PhotoFile
    original: str


@dataclass(frozen=True)
class HiddenPhoto:
    """What became of a photo, and the picture that is to be written if any is.

    Attributes:
        status, reason, faces, not_hidden: as of `PhotoOutcome`.
    """

    status: str
    reason: str = ""
    faces: tuple[FaceRecord, ...] = ()
    not_hidden: bool = False
    image: PIL.Image.Image | None = None
    read: ReadPhoto | None = None


def read_original(load: Callable[[], bytes]) -> ReadPhoto | PhotoFileError:
    """What is hashed is what is decoded: the file's bytes, loaded once."""
    try:
        data = load()
        return ReadPhoto(read_photo(io.BytesIO(data)), digest(data))
    except PhotoFileError as error:
        return error
    except OSError as error:
        return PhotoFileError(f"It cannot be read ({format_error(error, name_file=False)}): check its permissions.")
    except MemoryError as error:
        return PhotoFileError(f"{format_error(error)}.")


def hide_photo(anonymize: Anonymize, name: str, read: ReadPhoto | PhotoFileError) -> HiddenPhoto:
    """One photo through the model. Whatever goes wrong with it is a refusal."""
    if isinstance(read, PhotoFileError):
        return HiddenPhoto("refused", str(read))
    try:
        result = anonymize(read.file, name)
    except PhotoRefusedError as error:
        return HiddenPhoto("refused", str(error), not_hidden=isinstance(error, FaceNotHiddenError))
    # One photo that a library chokes on is no reason to give up the others.
    except Exception as error:
        if is_broken_device(error):
            raise
        return HiddenPhoto("refused", f"It could not be processed. {format_error(error)}.")
    covered = any(face.method == "covered" for face in result.faces)
    return HiddenPhoto("covered" if covered else "anonymized", faces=result.faces, image=result.image, read=read)


def encode_result(
    image: PIL.Image.Image, read: ReadPhoto, keep_metadata: bool, options: str
) -> tuple[bytes, MadeFrom]:
    """The result as a file, and the hashes of what it was made from.

    Raises:
        PhotoFileError: if it cannot be encoded, or would be the original.
    """
    data = encode_photo(image, read.file, keep_metadata)
    made = MadeFrom(read.original, options, digest(data))
    if made.result == made.original:
        raise PhotoFileError("The result would be the original, byte by byte: nothing was written.")
    return data, made
