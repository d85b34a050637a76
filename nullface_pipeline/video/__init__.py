"""Video anonymization: detect faces, link them to tracks, and replace the face of each track.

In every frame a track is replaced and verified, covered, or kept because the person agreed. Each
encoded segment is decoded and searched for faces before the result is written.
"""

from nullface_pipeline.video.checkpoint import VideoCheckpoint, VideoFile, open_checkpoint, removed_if_refused
from nullface_pipeline.video.linking import LinkedVideo, consistent_identities, link_video
from nullface_pipeline.video.reader import VideoError, VideoInfo, read_info
from nullface_pipeline.video.render import check_video_options, render_video
from nullface_pipeline.video.report import VideoReport
from nullface_pipeline.video.run import anonymize_video
from nullface_pipeline.video.writer import AUDIO, FORMATS, output_suffix
