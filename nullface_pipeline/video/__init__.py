"""Videos: look at every frame, link faces to tracks, give each track one new face, cover what is left, write the result.

A frame in which a face might show and nothing was done does not exist: every frame of every track is anonymized and
verified, or covered. Nothing is written before the finished picture has been decoded and searched once more.
"""

from nullface_pipeline.video.checkpoint import VideoCheckpoint, checkpoint_folder, remove_checkpoint
from nullface_pipeline.video.reader import VideoError, VideoInfo, read_info
from nullface_pipeline.video.report import VideoReport
from nullface_pipeline.video.run import (
    LinkedVideo,
    anonymize_video,
    check_video_options,
    consistent_identities,
    link_video,
)
from nullface_pipeline.video.writer import AUDIO, FORMATS, output_suffix
