"""Video: detect faces in every frame, link them to tracks, replace the face of each track, and write the result.

In every frame each track is replaced and verified, covered, or kept because the person agreed. The result is written
after it was decoded and searched once more.
"""

from nullface_pipeline.video.checkpoint import VideoCheckpoint, VideoFile, open_checkpoint, removed_if_refused
from nullface_pipeline.video.linking import LinkedVideo, consistent_identities, link_video
from nullface_pipeline.video.reader import VideoError, VideoInfo, read_info
from nullface_pipeline.video.render import check_video_options, render_video
from nullface_pipeline.video.report import VideoReport
from nullface_pipeline.video.run import anonymize_video
from nullface_pipeline.video.writer import AUDIO, FORMATS, output_suffix
