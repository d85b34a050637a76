"""Anonymization of folders of photos.

A photo ends up in the output folder complete and checked, or not at all. Every result is recorded with hashes of what
it was made from; so a stopped run is resumed by giving it again, and no other file is taken for a result.
"""

from nullface_pipeline.photo_folder.planned_files import plan_written
from nullface_pipeline.photo_folder.run import album_digest, anonymize_photos, read_album
from nullface_pipeline.photo_folder.search import FoundPhotos, find_photos, search_photos
