"""Web page that anonymizes photos and short clips, as a Hugging Face Space or by `make space`."""

import asyncio
import atexit
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import limits
from limits import FORGET_AFTER, PIPELINE


# Set before Gradio is imported, which reads them. Uploads go to a folder of this process.
_exit_stack = contextlib.ExitStack()
PROCESS_FOLDER = _exit_stack.enter_context(limits.process_folder())
atexit.register(_exit_stack.close)
UPLOADS = PROCESS_FOLDER / "uploads"
UPLOADS.mkdir()
os.environ["GRADIO_TEMP_DIR"] = str(UPLOADS)
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

try:
    # Only on ZeroGPU. It must be imported before torch.
    import spaces
except ImportError:
    spaces = None

import diffusers
import gradio as gr
import PIL.Image
import torch
import transformers
from open_clip import MAX_SECONDS, OpenClip, anonymize_clip, open_clip, show_clip
from open_photo import MAX_PIXELS, OpenPhoto, draw_changes, open_photo, open_upload
from page_parts import brush_value, file_name, keep_brush, painted_mask, picture, result_file, show_result
from skimage import data
from starlette.middleware import Middleware
from uploads import CLIP_SUFFIXES, ClipUpload, PhotoUpload

from nullface_pipeline.face_identity import same_person_similarity
from nullface_pipeline.face_regions import FACE_REGIONS, check_kept_regions
from nullface_pipeline.model_sets import load_model_set
from nullface_pipeline.photo_files import PhotoFileError, read_photo
from nullface_pipeline.photo_files.anonymize import anonymize_file
from nullface_pipeline.photo_options import PRESETS, PhotoOptions, described
from nullface_pipeline.photo_records import AnonymizedPhoto, NoFaceFoundError, PhotoRefusedError
from nullface_pipeline.weights import missing_weights


# Settings with a slider, and its step.
KNOBS = {"skip": 0.05, "guidance_scale": 0.5, "identity_scale": 0.1, "mask_start": 0.05}

# Guidance scales above distort faces.
MAX_SLIDER = 20.0

NOTHING_OPEN = (
    f"No photo is open. Choose one. It is deleted {FORGET_AFTER // 60} minutes after its last use, or earlier if many "
    "people use this page."
)

FOLDER = Path(__file__).parent

THEME = gr.themes.Default(primary_hue="pink", font=["system-ui", "sans-serif"], font_mono=["monospace"]).set(
    # Gradio's default colours are too pale to read.
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
)


@dataclass(frozen=True, eq=False)
class Model:
    """Name of a model set, its pipeline, and a notice for the page."""

    name: str
    pipe: Any
    notice: str

    def settings(self, preset: str) -> dict[str, Any]:
        return {"identity_scale": 1.0, "mask_start": 0.8, **self.pipe.presets[preset]}


def load_model() -> Model:
    """Load Stable Diffusion 1.5 if its weights or a GPU are available, else nullface-tiny."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    if torch.cuda.is_available() or not missing_weights("sd15"):
        try:
            return Model("sd15", load_model_set("sd15"), "Model: **Stable Diffusion 1.5**, 512 px.")
        except (OSError, RuntimeError, ValueError) as error:
            print(f"Stable Diffusion 1.5 could not be loaded. Using nullface-tiny. {str(error).splitlines()[0]}")
    notice = (
        "Model: **nullface-tiny**, a demonstration model whose faces have only 128 px. "
        "Install the weights of Stable Diffusion 1.5 to use that model instead; its face models are licensed for "
        "research only."
    )
    return Model("tiny", load_model_set("tiny"), notice)


MODEL = load_model()


def load_example() -> OpenPhoto:
    """Open scikit-image's portrait of an astronaut, which is in the public domain."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "astronaut.png"
        PIL.Image.fromarray(data.astronaut()).save(path)
        return open_photo(read_photo(path), MODEL.pipe.face_analyser)


EXAMPLE = load_example()


def choice(option: str) -> gr.Radio:
    """Control of an option of `PhotoOptions` with named values."""
    field = PhotoOptions.__dataclass_fields__[option]
    description = described(field)
    choices = list(description.choices)
    return gr.Radio(choices, value=str(field.default), label=option.capitalize(), info=description.help)


def slider(option: str, value: float, step: float) -> gr.Slider:
    """Control of a number, without values below 0, which move towards the person."""
    description = described(PhotoOptions.__dataclass_fields__[option])
    low, high = max(0.0, description.low), min(description.high, MAX_SLIDER)
    label = option.replace("_", " ").capitalize()
    return gr.Slider(low, high, value, step=step, label=label, info=description.help)


def face_names(photo: OpenPhoto) -> list[str]:
    return [f"Face {number}" for number in range(1, len(photo.faces) + 1)]


def count_faces(photo: OpenPhoto) -> str:
    count = len(photo.faces)
    return "1 face was found." if count == 1 else f"{count} faces were found."


def show_example() -> dict[Any, Any]:
    return show_photo(EXAMPLE, f"Example photo. {count_faces(EXAMPLE)}")


def show_upload(path: str | None) -> dict[Any, Any]:
    """Open an uploaded photo, or show why it cannot be used."""
    if path is None:
        # The visitor switched between files and camera.
        return {status: NOTHING_OPEN}
    try:
        photo = open_upload(Path(path), MODEL.pipe.face_analyser)
    except NoFaceFoundError:
        return show_refusal("No face was found in this photo. Try another photo.")
    except (PhotoFileError, PhotoRefusedError) as error:
        return show_refusal(f"This file cannot be used. {error}")
    return show_photo(photo, count_faces(photo))


def show_photo(photo: OpenPhoto, message: str) -> dict[Any, Any]:
    names = face_names(photo)
    return {
        state: photo,
        status: message,
        upload: gr.update(value=None, visible=False),
        another: gr.update(visible=True),
        preview: draw_preview(photo, names, [], brush_value(photo.view)),
        faces: gr.update(choices=names, value=names),
        keep: [],
        brush: brush_value(photo.view),
        choices: gr.update(visible=True),
        result: "",
    }


def show_refusal(message: str) -> dict[Any, Any]:
    gr.Warning(message, title="Not used")
    return show_nothing(f"**{message}**")


def show_nothing(message: str = NOTHING_OPEN) -> dict[Any, Any]:
    return {
        state: None,
        status: message,
        upload: gr.update(value=None, visible=True),
        another: gr.update(visible=False),
        preview: "",
        faces: gr.update(choices=[], value=[]),
        keep: [],
        brush: brush_value(None),
        choices: gr.update(visible=False),
        result: "",
    }


def draw_preview(photo: OpenPhoto | None, chosen: list[str], kept: list[str], painting: dict[str, Any]) -> str:
    """HTML of the preview, see `draw_changes`."""
    if photo is None:
        return ""
    names = face_names(photo)
    indices = [names.index(name) for name in chosen if name in names]
    mask = painted_mask(painting, photo.view, (photo.view.shape[1], photo.view.shape[0]))
    image = draw_changes(MODEL.pipe, photo, indices, kept, mask)
    description = f"Your photo with {len(names)} outlined face(s). To be changed: {', '.join(chosen) or 'none'}."
    return picture(image, description) + (
        '<p class="legend"><span class="changes"></span> changes <span class="stays"></span> stays. '
        "Check that every face is outlined. A face that is not outlined may stay unchanged.</p>"
    )


def set_knobs(preset: str) -> list[float]:
    settings = MODEL.settings(preset)
    return [settings[name] for name in KNOBS]


def run(
    photo: OpenPhoto | None,
    chosen: list[str],
    kept: list[str],
    painting: dict[str, Any],
    preset: str,
    cover: str,
    *knobs: float,
) -> tuple[str, str]:
    """Anonymize the open photo; returns status and result. On an error, no photo is shown."""
    if photo is None:
        return NOTHING_OPEN, ""
    if not set(chosen) & set(face_names(photo)):
        return "Select at least one face to anonymize.", ""
    try:
        check_kept_regions(kept)
        keep_mask = painted_mask(painting, photo.view, photo.file.image.size)
        anonymized = anonymize(photo, chosen, kept, keep_mask, preset, cover, knobs)
        shown = show_result(photo, anonymized, same_person_similarity(MODEL.pipe.face_analyser))
    except (PhotoFileError, PhotoRefusedError, ValueError) as error:
        gr.Warning(str(error), title="No result")
        return f"**{error}**", ""
    # Any error of a library, such as too little memory. Otherwise the visitor would keep waiting.
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return "**The photo could not be processed, so there is no result. Try a smaller one.**", ""
    covered = sum(face.method == "covered" for face in anonymized.faces)
    return f"Done{f', {covered} face(s) covered instead of replaced' if covered else ''}. The result is below.", shown


def anonymize(
    photo: OpenPhoto,
    chosen: list[str],
    kept: list[str],
    keep_mask: PIL.Image.Image | None,
    preset: str,
    cover: str,
    knobs: tuple[float, ...],
) -> AnonymizedPhoto:
    """Replace or cover every chosen face, with a new random seed on every call."""
    kept_faces = [face for name, face in zip(face_names(photo), photo.faces) if name not in chosen]
    values: dict[str, Any] = dict(zip(KNOBS, knobs))
    options = PhotoOptions(
        keep=tuple(kept),
        keep_mask=keep_mask,
        skip_faces=tuple(tuple(face.box.tolist()) for face in kept_faces),
        cover=cover,
        preset=preset,
        **values,
    )
    return anonymize_file(MODEL.pipe, photo.file, options)


if spaces is not None:
    anonymize = spaces.GPU(anonymize)


def show_clip_upload(path: str | None) -> tuple[OpenClip | None, str]:
    """Open an uploaded video, or show why it cannot be used."""
    if path is None:
        return None, ""
    try:
        opened = open_clip(Path(path))
    except PhotoRefusedError as error:
        gr.Warning(str(error), title="Not used")
        return None, f"**This file cannot be used. {error}**"
    return opened, f"{opened.name} is open. Processing takes minutes. Leave this page open."


def clip_options(preset: str) -> PhotoOptions:
    return PhotoOptions(identity="opposite", preset=preset)


def run_clip(opened: OpenClip | None, preset: str, progress: gr.Progress = gr.Progress()) -> tuple[str, str]:
    """Anonymize the open clip; returns status and result. On an error, no clip is shown."""
    if opened is None:
        return "No clip is open. Choose one.", ""

    def on_progress(step: str, done: int, total: int | None) -> None:
        progress((done, total), desc=step, unit="frames")

    try:
        result = anonymize_clip(MODEL.pipe, opened, clip_options(preset), PROCESS_FOLDER, on_progress)
        return "Done. The result is below.", show_clip(opened, result)
    except PhotoRefusedError as error:
        gr.Warning(str(error), title="No result")
        return f"**{error}**", ""
    # Any error of a library. Otherwise the visitor would keep waiting.
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return "**The clip could not be processed, so there is no result. Try a shorter one.**", ""


if spaces is not None:
    run_clip = spaces.GPU(run_clip, duration=120)


def anonymize_upload(photo: str | None, strength: str, keep: list[str], cover: str) -> str:
    """Anonymize every face of a photo. Returns the anonymized photo in the same file format."""
    with api_errors():
        opened = open_upload(Path(photo or ""), MODEL.pipe.face_analyser)
        check_kept_regions(keep)
        knobs = tuple(set_knobs(strength))
        anonymized = anonymize(opened, face_names(opened), keep, None, strength, cover, knobs)
        return write_result(file_name(opened), result_file(opened, anonymized))


def anonymize_video_upload(video: str | None, strength: str) -> str:
    """Anonymize every face of a video of at most 30 seconds. Returns it without sound."""
    with api_errors():
        opened = open_clip(Path(video or ""))
        result = anonymize_clip(MODEL.pipe, opened, clip_options(strength), PROCESS_FOLDER)
        return write_result(result.name, result.data)


if spaces is not None:
    anonymize_video_upload = spaces.GPU(anonymize_video_upload, duration=120)


@contextlib.contextmanager
def api_errors() -> Iterator[None]:
    """Context that sends refusals to the client with their message, and other errors without."""
    try:
        yield
    except (PhotoFileError, PhotoRefusedError, ValueError) as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise gr.Error("The file could not be processed, so there is no result.", print_exception=False) from error


def write_result(name: str, content: bytes) -> str:
    """Write a file for the client of the API; returns its path. It is deleted as uploads are."""
    path = Path(tempfile.mkdtemp(dir=UPLOADS)) / name
    path.write_bytes(content)
    return str(path)


async def forget_visitor(request: gr.Request) -> None:
    """Delete all data of a visitor who closed the page."""
    await limits.forget(page, request.session_hash)


@contextlib.asynccontextmanager
async def housekeeping(_: Any) -> AsyncIterator[None]:
    """Context of the server's life, in which sessions and files are kept within their limits."""
    task = asyncio.create_task(tidy_regularly())
    try:
        yield
    finally:
        task.cancel()


async def tidy_regularly() -> None:
    while True:
        try:
            await limits.forget_idle(page)
            await limits.forget_over_budget(page)
            limits.delete_old_files(UPLOADS)
        # The loop must not end, because it deletes the visitors' data.
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        await asyncio.sleep(1)


with gr.Blocks(title="NullFace", analytics_enabled=False) as page:
    gr.Markdown(
        "# NullFace\n\nReplaces the selected faces by those of other people. The rest of the photo is unchanged.\n\n"
        + MODEL.notice
    )
    state = gr.State()
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            gr.Markdown("## 1. Photo")
            upload = PhotoUpload(
                label="Your photo", sources=["upload", "webcam", "clipboard"], type="filepath", buttons=[], height=260
            )
            preview = gr.HTML(elem_id="preview", js_on_load=None)
            another = gr.Button("Choose another photo", visible=False)
        with gr.Column(scale=2, min_width=300, visible=False) as choices:
            gr.Markdown("## 2. Options")
            faces = gr.CheckboxGroup(label="Faces to anonymize", info="Deselect people who agreed to be shown.")
            keep = gr.CheckboxGroup(
                [*FACE_REGIONS, "lips"], label="Regions to keep", info="Kept unchanged in every selected face."
            )
            with gr.Accordion("Paint a region to keep", open=False):
                gr.Markdown("The painted region, for example a lesion, is kept unchanged.")
                brush = keep_brush()
            preset = choice("preset")
            with gr.Accordion("Advanced", open=False):
                values = MODEL.settings("standard")
                knobs = [slider(name, values[name], step) for name, step in KNOBS.items()]
                cover = choice("cover")
            start = gr.Button("Anonymize", variant="primary")
    status = gr.Markdown(elem_id="status")
    result = gr.HTML(elem_id="result", js_on_load=None)
    with gr.Accordion(f"A clip of at most {MAX_SECONDS} seconds instead", open=False):
        clip_state = gr.State()
        clip = ClipUpload(label="Your clip", file_types=sorted(CLIP_SUFFIXES), height=140)
        clip_preset = gr.Radio(
            ["fast", *(name for name in PRESETS if name not in ("fast", "preview", "private"))],
            value="fast",
            label="Strength",
            info="Fast has the strength of standard, with fewer steps.",
        )
        start_clip = gr.Button("Anonymize the clip", variant="primary")
        clip_status = gr.Markdown()
        clip_result = gr.HTML(elem_id="clip-result", js_on_load=None)
    gr.Markdown(
        "## Your privacy\n\n"
        "* The uploaded file is deleted as soon as it is read. Results are not stored in permanent files.\n"
        f"* The photo stays in memory until you close this page, or for {FORGET_AFTER // 60} minutes after its last "
        "use. If many people use the page, the least recently used photos are deleted earlier. No statistics are "
        "collected.\n"
        f"* Limits: {limits.MAX_FILE_BYTES // 10**6} MB per file and {MAX_PIXELS // 1_000_000} megapixels per photo. "
        "One photo or clip is processed at a time.\n"
        "* Faces can be missed, and people can also be recognized by clothes, place and company. Check every result "
        "before you publish it."
    )

    shown = [state, status, upload, another, preview, faces, keep, brush, choices, result]
    drawn = [state, faces, keep, brush]
    page.load(show_example, None, shown, api_visibility="private")
    upload.input(show_upload, upload, shown, api_visibility="private")
    another.click(show_nothing, None, shown, api_visibility="private")
    gr.on(
        [faces.input, keep.input, brush.input],
        draw_preview,
        drawn,
        preview,
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )
    preset.input(set_knobs, preset, knobs, api_visibility="private")
    start.click(lambda: ("Working …", ""), None, [status, result], api_visibility="private").then(
        run,
        [*drawn, preset, cover, *knobs],
        [status, result],
        show_progress_on=status,
        concurrency_id=PIPELINE,
        concurrency_limit=1,
        api_visibility="private",
    )
    clip.upload(show_clip_upload, clip, [clip_state, clip_status], api_visibility="private")
    start_clip.click(
        run_clip,
        [clip_state, clip_preset],
        [clip_status, clip_result],
        show_progress_on=clip_status,
        concurrency_id=PIPELINE,
        concurrency_limit=1,
        api_visibility="private",
    )
    # The named endpoints of the API are events of two hidden buttons.
    gr.Button(visible=False).click(
        anonymize_upload,
        [upload, preset, keep, cover],
        gr.File(visible=False),
        api_name="anonymize",
        concurrency_id=PIPELINE,
        concurrency_limit=1,
    )
    gr.Button(visible=False).click(
        anonymize_video_upload,
        [clip, clip_preset],
        gr.File(visible=False),
        api_name="anonymize_video",
        concurrency_id=PIPELINE,
        concurrency_limit=1,
    )
    page.unload(forget_visitor)


def launch(**options: Any) -> tuple[Any, str, str]:
    """Start the server with the limits of this page; `options` are passed to Gradio's `launch`."""
    # Without `api_open=False`, a direct request would run the pipeline beside the queue.
    page.queue(max_size=20, api_open=False)
    limits.limit_queue(page)
    return page.launch(
        css_paths=FOLDER / "style.css",
        js=(FOLDER / "page.js").read_text(encoding="utf-8"),
        theme=THEME,
        max_file_size=limits.MAX_FILE_BYTES,
        app_kwargs={"lifespan": housekeeping, "middleware": [Middleware(limits.BodyLimit)]},
        state_session_capacity=100,
        # Gradio would keep photos and results in the browser.
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        footer_links=[],
        prevent_thread_lock=True,
        **options,
    )


if __name__ == "__main__":
    # Exit normally, so that the folder of the uploads is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    launch()
    page.block_thread()
