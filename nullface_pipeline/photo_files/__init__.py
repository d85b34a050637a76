"""Reading, anonymizing and writing single photo files.

The reader refuses files that cannot be anonymized as a whole (animations, pages, raw files, damaged
files) with `PhotoFileError`. The writer starts from pixels and adds only the color profile, the
resolution, the transparency and, on request, EXIF tags.

| file | written as |
|---|---|
| JPEG | JPEG, quality 95, same chroma subsampling; CMYK is converted to sRGB |
| PNG | PNG, 8 bits per channel, without palette, with the color chunks |
| WebP | WebP, lossless if the file is, else quality 95 |
| TIFF | TIFF, uncompressed or LZW if the file is, else deflate |
| BMP | BMP, without color profile and AI marking, which the format cannot hold |
| HEIC | HEIC, quality 90, same chroma subsampling; needs pillow-heif with an encoder |

All metadata is rebuilt, not copied:

* Matrix profiles with plain curves are rebuilt (`colour_profile.py`). Photos with other profiles
  are converted to sRGB before face detection.
* Dithered transparency, and partial transparency of more than a tenth of the pixels, is refused.
  Other transparency is kept. Fully transparent pixels are written black. Search `alpha_views` and
  `composed_views` for faces, or `flatten` the photo.
* EXIF values are kept if their tag is known and they are plausible (`exif.py`).
* The resolution and the color codes of PNG and HEIC are kept if they are plausible.

Grayscale photos stay grayscale. The format depends on the content of the file, not on its suffix.
Photos of 16 bits are written with 8, because faces are detected and verified at 8 bits. Secondary
pictures in a file are dropped: thumbnails, previews, gain maps, depth maps and motion clips.
"""

from nullface_pipeline.photo_files.metadata import DIGITAL_SOURCE_TYPE
from nullface_pipeline.photo_files.photo_file import PhotoFile, PhotoFileError
from nullface_pipeline.photo_files.reading import (
    MAX_PIXELS,
    SUFFIXES,
    UNREAD_PICTURES,
    VIDEO_TYPES,
    is_photo_name,
    kind_of_photo,
    read_photo,
)
from nullface_pipeline.photo_files.transparency import alpha_views, composed_views, flatten
from nullface_pipeline.photo_files.writing import encode_photo, write_photo, write_picture
