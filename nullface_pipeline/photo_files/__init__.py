"""Reading, anonymizing and writing single photo files.

Reading refuses whatever cannot be anonymized as a whole (animations, pages, raw files, damaged files) with one
`PhotoFileError`. Writing starts from bare pixels, so that nothing of the original file comes along unless it is named
here: the colour profile, the resolution, the transparency and, only when asked for, the camera's notes in the EXIF.

| file | read as | written as |
|---|---|---|
| JPEG | RGB; CMYK through its profile | JPEG, quality 95, the file's own subsampling; CMYK becomes sRGB |
| PNG, palette included | RGB, alpha apart | PNG, 8 bits a channel, with the file's colour chunks |
| WebP | RGB, alpha apart | WebP, lossless where the file is, else quality 95 |
| TIFF | RGB, alpha apart | TIFF, uncompressed or LZW as the file, else deflate |
| BMP | RGB, alpha apart | BMP; it can carry neither profile nor AI mark, and few programs see its transparency |
| HEIC | RGB, alpha apart | HEIC, quality 90, the file's own chroma; an encoder in pillow-heif is needed |

What leaves is made anew, not copied:

* A profile of primaries and plain curves (sRGB, Adobe RGB, Display P3, grey gammas) is rebuilt from its numbers; with any
  other the photo is converted to sRGB, before faces are looked for. See `colour_profile.py`.
* Transparency that is dithered, or half transparent on more than a tenth of the picture, is refused. Other transparency is
  kept, and `alpha_views` and `composed_views` are what has to be searched for faces; `flatten` does without it. What lies
  under full transparency is written black.
* Notes are kept if their tag is known and the value is of a plausible kind, length and range. See `exif.py`.
* Colour numbers of PNG and HEIC are kept if they name colours of photos, the resolution if a printer could mean it.

Grey photos stay grey. The format is told by the content; a PNG named `.jpg` is written as a PNG
under the name it is given. 16-bit photos are written at 8 bits: faces are looked for and judged at 8 bits, and what
lies in the lower bits of a photo that is nearly black could hold a face that nobody has checked. Secondary pictures
inside a file, such as thumbnails, previews, gain maps, depth maps and motion clips, are left out.
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
