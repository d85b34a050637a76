"""Many photos: which there are, where each goes, and one after the other through the pipeline without a leak.

A photo ends up in the output folder complete and checked, or not at all. Every result is recorded with hashes of what
it was made from; so a stopped run is resumed by giving it again, and no other file is taken for a result.
"""

from nullface_pipeline.photo_folder.album import album_digest, read_album
from nullface_pipeline.photo_folder.jobs import FoundPhotos, PhotoJob, find_photos, search_photos
from nullface_pipeline.photo_folder.lock import hold_folder, remove_leftovers
from nullface_pipeline.photo_folder.noise import photo_seed
from nullface_pipeline.photo_folder.one_file import anonymize_file, photo_anonymizer
from nullface_pipeline.photo_folder.paths import check_written, plan_written
from nullface_pipeline.photo_folder.records import MadeFrom, ResultRecord, file_digest, options_digest, record_path
from nullface_pipeline.photo_folder.report import PhotoOutcome, append_to_report, read_report
from nullface_pipeline.photo_folder.resume import Earlier, SplitJobs, split_jobs
from nullface_pipeline.photo_folder.run import anonymize_photos
