"""Make all pictures of the documentation: `python docs/make_pictures.py`, one to two minutes.

They are made by nullface-tiny from free pictures of scikit-image, and are reproducible on one
machine. The pictures of the Space and of nullface-tiny's model card are made elsewhere.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import PIL.ImageFont
import PIL.ImageOps
import torch
from skimage import data

from nullface_pipeline import StableDiffusionNullFacePipeline
from nullface_pipeline.face_identity import detect_faces
from nullface_pipeline.face_masks import mask_picture
from nullface_pipeline.face_search import search_faces
from nullface_pipeline.face_target import make_target
from nullface_pipeline.image_inputs import to_uint8
from nullface_pipeline.photo_files import PhotoFile
from nullface_pipeline.photo_files.anonymize import anonymize_file
from nullface_pipeline.photo_folder import anonymize_photos, find_photos
from nullface_pipeline.photo_folder.contact_sheet import draw_page
from nullface_pipeline.photo_folder.preview import draw_faces
from nullface_pipeline.photo_options import COVERS, PhotoOptions
from nullface_pipeline.tiny_model import load_nullface_tiny


IMAGES = Path(__file__).parent / "images"
TILE, CAPTION, GAP = 192, 22, 8
SEED = 30

# Boxes of a spot on the astronaut's cheek and of the head, in photo pixels.
SPOT = (195, 122, 211, 136)
HEAD = (140, 20, 310, 190)


def main() -> None:
    torch.set_num_threads(1)
    pipe = load_nullface_tiny()
    pipe.set_progress_bar_config(disable=True)
    photo = PIL.Image.fromarray(data.astronaut())
    save(demo(pipe, photo), "demo.jpg")
    shutil.copy(IMAGES / "demo.jpg", IMAGES.parents[1] / "model_card")
    save(group(pipe), "group.jpg")
    save(preview(pipe), "preview.jpg")
    save(contact_sheet(pipe), "contact-sheet.png")
    save(covered(pipe, photo), "covered.jpg")
    save(how_it_works(pipe, photo), "how-it-works.jpg")
    save(settings_grid(pipe, photo), "settings.jpg")
    save(presets(pipe, photo), "presets.jpg")
    save(kept_regions(pipe, photo), "keep.jpg")
    save(medical(pipe, photo), "medical.jpg")


def save(picture: PIL.Image.Image, name: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    picture.save(IMAGES / name, quality=85, optimize=True)
    print(f"{name}: {picture.width} x {picture.height}, {(IMAGES / name).stat().st_size / 1e3:.0f} kB")


def demo(pipe: StableDiffusionNullFacePipeline, photo: PIL.Image.Image) -> PIL.Image.Image:
    """Photo and result of `nullface demo`."""
    result = pipe.anonymize(photo, seed=SEED).image
    return row([("the photo", photo), ("anonymized", result)], size=400)


def group_photo() -> PIL.Image.Image:
    """Three heads from one portrait: unchanged, mirrored and smaller, and rotated by 90 degrees."""
    portrait = PIL.Image.fromarray(data.astronaut())
    canvas = portrait.resize((1, 1)).resize((960, 420))
    canvas.paste(portrait.crop((40, 0, 400, 420)), (0, 0))
    canvas.paste(PIL.ImageOps.mirror(portrait).crop((110, 0, 420, 420)).resize((232, 315)), (370, 105))
    canvas.paste(portrait.crop((90, 0, 350, 300)).rotate(90, expand=True), (640, 120))
    return canvas


def group(pipe: StableDiffusionNullFacePipeline) -> PIL.Image.Image:
    """Several people, before and after."""
    photo = group_photo()
    result = pipe.anonymize(photo, seed=SEED).image
    sheet = PIL.Image.new("RGB", (photo.width, 2 * photo.height + GAP), "white")
    sheet.paste(photo, (0, 0))
    sheet.paste(result, (0, photo.height + GAP))
    return sheet


def preview(pipe: StableDiffusionNullFacePipeline) -> PIL.Image.Image:
    """Preview of a dry run for a group photo."""
    pixels = np.asarray(group_photo())
    return draw_faces(pixels, search_faces(pipe.face_analyser, pixels))


def contact_sheet(pipe: StableDiffusionNullFacePipeline) -> PIL.Image.Image:
    """Contact sheet of a folder: portraits, a group, and two pictures without faces."""
    astronaut = PIL.Image.fromarray(data.astronaut())
    photos = {
        "group.jpg": group_photo(),
        "portrait.jpg": astronaut,
        "mirrored.jpg": PIL.ImageOps.mirror(astronaut),
        "grey.jpg": astronaut.convert("L").crop((60, 0, 420, 460)),
        "rocket.jpg": PIL.Image.fromarray(data.rocket()),
        "cup.png": PIL.Image.fromarray(data.coffee()),
    }
    with tempfile.TemporaryDirectory() as folder:
        originals, results = Path(folder) / "originals", Path(folder) / "results"
        originals.mkdir()
        for name, picture in photos.items():
            picture.save(originals / name)

        def hide_faces(file: PhotoFile, name: str) -> Any:
            return anonymize_file(pipe, file, PhotoOptions(seed=SEED))

        page = draw_page(list(anonymize_photos(hide_faces, find_photos([originals], results))))
    return page.quantize(128)


def covered(pipe: StableDiffusionNullFacePipeline, photo: PIL.Image.Image) -> PIL.Image.Image:
    """Each kind of cover, on a face that no attempt can anonymize due to the threshold."""
    settings = {"seed": SEED, "similarity_threshold": -1.0, "max_attempts": 1}
    results = [(cover, pipe.anonymize(photo, cover=cover, **settings).image.crop(HEAD)) for cover in COVERS]
    return row([("the photo", photo.crop(HEAD)), *results])


def aligned_face(pipe: StableDiffusionNullFacePipeline, photo: PIL.Image.Image, keep: tuple[str, ...] = ()) -> Any:
    """`FaceTarget` of the only face of a photo, with its aligned crop and mask."""
    pixels = np.asarray(photo)
    faces = detect_faces(pipe.face_analyser, pixels)
    return make_target(pipe, pixels, faces[0], faces[:1], keep, None, SEED)


def how_it_works(pipe: StableDiffusionNullFacePipeline, photo: PIL.Image.Image) -> PIL.Image.Image:
    """All stages of the method, from the photo and back to it."""
    target = aligned_face(pipe, photo)
    face, mask = PIL.Image.fromarray(target.aligned), mask_picture(target.mask)
    generator, standard = torch.Generator().manual_seed(SEED), pipe.presets["standard"]
    inversion = pipe.invert(
        face,
        num_inference_steps=standard["num_inference_steps"],
        skip=standard["skip"],
        generator=generator,
    )
    recorded = {round(share * (len(inversion.schedule) - 1)) for share in (0.0, 0.3, 0.6, 0.9)}
    steps: list[tuple[str, PIL.Image.Image]] = []

    def keep_step(pipe: Any, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if step in recorded:
            steps.append((f"5 after step {step + 1} of {pipe.num_timesteps}", decoded(pipe, tensors["latents"])))
        return tensors

    result = pipe(
        face,
        inversion=inversion,
        identity_embeds=torch.from_numpy(target.face.embedding)[None],
        mask_image=mask,
        guidance_scale=standard["guidance_scale"],
        callback_on_step_end=keep_step,
    ).images[0]
    pasted = replace(target, result=np.asarray(result)).paste(np.asarray(photo))
    first = [("1 photo", photo.crop(HEAD)), ("2 aligned", face), ("3 mask", mask)]
    noised = [("4 noise added", decoded(pipe, inversion.latents))]
    last = [("6 result", result), ("7 pasted back", PIL.Image.fromarray(pasted).crop(HEAD))]
    return grid([[*first, *noised, steps[0]], [*steps[1:], *last]], size=160)


@torch.no_grad()
def decoded(pipe: Any, latents: torch.Tensor) -> PIL.Image.Image:
    """Picture of the latents of one face."""
    return PIL.Image.fromarray(to_uint8(pipe.decode_latents(latents))[0])


def settings_grid(pipe: StableDiffusionNullFacePipeline, photo: PIL.Image.Image) -> PIL.Image.Image:
    """Results of one aligned face by `skip` and `guidance_scale`."""
    target = aligned_face(pipe, photo)
    face, embedding = PIL.Image.fromarray(target.aligned), torch.from_numpy(target.face.embedding)[None]
    rows = []
    for skip in (0.9, 0.8, 0.7, 0.6):
        generator = torch.Generator().manual_seed(SEED)
        inversion = pipe.invert(face, num_inference_steps=50, skip=skip, generator=generator)
        cells = [("the face", face)]
        for scale in (1.5, 2.5, 5.0, 10.0):
            result = pipe(
                face,
                inversion=inversion,
                identity_embeds=embedding,
                mask_image=mask_picture(target.mask),
                guidance_scale=scale,
            ).images[0]
            cells.append((f"skip {skip}, guidance {scale:g}", result))
        rows.append(cells)
    return grid(rows, size=160)


def presets(pipe: StableDiffusionNullFacePipeline, photo: PIL.Image.Image) -> PIL.Image.Image:
    """Results of all presets."""
    results = [(name, pipe.anonymize(photo, seed=SEED, preset=name).image.crop(HEAD)) for name in pipe.presets]
    return row([("the photo", photo.crop(HEAD)), *results])


def kept_regions(pipe: StableDiffusionNullFacePipeline, photo: PIL.Image.Image) -> PIL.Image.Image:
    """Results with nothing, the eyes, and eyes and mouth kept."""
    cells = [("the photo", photo.crop(HEAD))]
    for keep in ((), ("eyes",), ("eyes", "mouth")):
        result = pipe.anonymize(photo, keep=keep, seed=2).image  # chosen by looking
        cells.append((f"kept: {', '.join(keep) or 'nothing'}", result.crop(HEAD)))
    return row(cells)


def medical(pipe: StableDiffusionNullFacePipeline, photo: PIL.Image.Image) -> PIL.Image.Image:
    """A spot on the cheek, without a mask and kept by a mask."""
    patient, mask = draw_spot(photo), spot_mask(photo.size)
    without = pipe.anonymize(patient, seed=SEED).image
    kept = pipe.anonymize(patient, keep_mask=mask, seed=SEED).image
    return row(
        [
            ("the photo, spot drawn in", patient.crop(HEAD)),
            ("keep_mask", mask.crop(HEAD).convert("RGB")),
            ("without keep_mask", without.crop(HEAD)),
            ("with keep_mask", kept.crop(HEAD)),
        ]
    )


def draw_spot(photo: PIL.Image.Image) -> PIL.Image.Image:
    spot = PIL.Image.new("L", photo.size)
    x0, y0, x1, y1 = SPOT
    PIL.ImageDraw.Draw(spot).ellipse((x0 + 4, y0 + 4, x1 - 4, y1 - 4), fill=220)
    return PIL.Image.composite(
        PIL.Image.new("RGB", photo.size, (96, 40, 34)), photo, spot.filter(PIL.ImageFilter.GaussianBlur(1))
    )


def spot_mask(size: tuple[int, int]) -> PIL.Image.Image:
    mask = PIL.Image.new("L", size)
    PIL.ImageDraw.Draw(mask).ellipse(SPOT, fill=255)
    return mask


def row(cells: list[tuple[str, PIL.Image.Image]], size: int = TILE) -> PIL.Image.Image:
    return grid([cells], size)


def grid(rows: list[list[tuple[str, PIL.Image.Image]]], size: int = TILE) -> PIL.Image.Image:
    """Rows of square pictures with captions."""
    width, height = size + GAP, size + CAPTION + GAP
    sheet = PIL.Image.new("RGB", (GAP + width * max(map(len, rows)), GAP + height * len(rows)), "white")
    draw, font = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(13)
    for y, cells in enumerate(rows):
        for x, (caption, picture) in enumerate(cells):
            left, top = GAP + x * width, GAP + y * height
            sheet.paste(picture.resize((size, size), PIL.Image.Resampling.LANCZOS), (left, top))
            draw.text((left, top + size + 3), caption, "black", font)
    return sheet


if __name__ == "__main__":
    main()
