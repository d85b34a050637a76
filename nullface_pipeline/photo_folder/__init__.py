"""Anonymization of folders of photos.

Results are verified and written atomically. Each is recorded with hashes of its original and
options, so that repeating a stopped run resumes it.
"""

from nullface_pipeline.photo_folder.planned_files import plan_written
from nullface_pipeline.photo_folder.run import album_digest, anonymize_photos, read_album
from nullface_pipeline.photo_folder.search import FoundPhotos, find_photos, search_photos
