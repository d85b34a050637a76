"""What happens to a photo on its way, in a folder or in a shard of a data set: it is read, its faces are hidden, it is encoded.

Each step is a function of its own, so that the next photo can be read and the last one written while the model works.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import PIL.Image

from nullface_pipeline.photo_files import PhotoFile, PhotoFileError, encode_photo, read_photo
from nullface_pipeline.photo_folder.paths import is_regular
from nullface_pipeline.photo_folder.records import MadeFrom, digest
from nullface_pipeline.photo_records import AnonymizedPhoto, FaceNotHiddenError, FaceRecord, PhotoRefusedError


Anonymize = Callable[[PhotoFile, str], AnonymizedPhoto]

Item = TypeVar("Item")
Read = TypeVar("Read")
Done = TypeVar("Done")
Result = TypeVar("Result")


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Done],
    write: Callable[[Item, Done], Result],
) -> Iterator[Result]:
    """Three steps for each item, in order; while one is worked on, the next is read and the last is written.

    `items` and `read` run in one thread, `work` in the caller's, `write` in another; so at most three items are held.
    """
    waiting = iter(items)

    def read_next() -> tuple[Item, Read] | None:
        for item in waiting:
            return item, read(item)
        return None

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reading = reader.submit(read_next)
        writing: Future[Result] | None = None
        while (current := reading.result()) is not None:
            reading = reader.submit(read_next)
            item, what = current
            done = work(item, what)
            if writing is not None:
                yield writing.result()
            writing = writer.submit(write, item, done)
        if writing is not None:
            yield writing.result()


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
        return PhotoFileError(f"It cannot be read ({error.strerror}): check its permissions.")
    except MemoryError:
        return PhotoFileError("It needs more memory than there is: shrink it.")


def file_bytes(path: Path) -> bytes:
    """A photo's file.

    Raises:
        OSError, PhotoFileError: if it cannot be read.
    """
    # What is no file, or cannot be opened, is for `read_photo` to put into words.
    if not is_regular(path):
        read_photo(path)
    return path.read_bytes()


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
        return HiddenPhoto("refused", in_words(error))
    covered = any(face.method == "covered" for face in result.faces)
    return HiddenPhoto("covered" if covered else "anonymized", faces=result.faces, image=result.image, read=read)


def is_broken_device(error: Exception) -> bool:
    """Whether no photo can be processed from here on: torch's error of a GPU that has stopped working."""
    # By its name, because torch takes seconds to import.
    return type(error).__name__ == "AcceleratorError"


def in_words(error: Exception) -> str:
    """Why a photo is refused that a library chokes on."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "It needs more memory than there is: shrink it, or lower `batch_faces`."
    return f"It could not be processed ({type(error).__name__}: {' '.join(str(error).split())[:200]})."


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
