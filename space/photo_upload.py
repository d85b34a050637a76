"""Gradio's image input, without its reading of the image."""

from typing import Any

import gradio as gr


class PhotoUpload(gr.Image):
    """Hands over the path of the upload, unopened: `read_photo` has the limits and the messages."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        return None if payload is None else payload.path
