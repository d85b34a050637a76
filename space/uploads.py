"""Gradio's inputs for a photo and for a clip, which hand over the path of the upload, unopened.

`read_photo` and `open_clip` have the limits and the messages. Gradio's own would read the image, and leave an empty file
behind for each clip.
"""

from typing import Any

import gradio as gr


class PhotoUpload(gr.Image):
    """One photo."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        return None if payload is None else payload.path


class ClipUpload(gr.File):
    """One clip."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        return None if payload is None else payload.path
