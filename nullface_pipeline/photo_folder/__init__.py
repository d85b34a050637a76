"""Many photos: which there are, where each goes, and one after the other through the pipeline without a leak.

A photo ends up in the output folder complete and checked, or not at all. What is there already was finished by an
earlier run, because files only ever appear under their names whole; so a stopped run is resumed by giving it again.
"""

from nullface_pipeline.photo_folder.jobs import PhotoJob, find_photos
from nullface_pipeline.photo_folder.report import PhotoOutcome, append_to_report, read_report, split_finished
from nullface_pipeline.photo_folder.run import anonymize_photos, remove_leftovers
