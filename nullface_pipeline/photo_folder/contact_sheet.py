"""Contact sheet: pages with thumbnails of the results, or the reasons of refusals."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from nullface_pipeline.photo_files import read_photo, write_picture
from nullface_pipeline.photo_folder.planned_files import SHEET_SIZE, page_path
from nullface_pipeline.runs.messages import printable
from nullface_pipeline.runs.report import PhotoOutcome


COLUMNS = 6
TILE, CAPTION, GAP = 200, 34, 10
COLOURS = {"anonymized": "#1a7f37", "covered": "#9a6700", "refused": "#b42318"}


def write_contact_sheets(outcomes: list[PhotoOutcome], path: Path) -> Iterator[Path]:
    """Write one page to `path`, or several with numbered names; yield the path of each.

    Raises:
        OSError: if a page cannot be written.
        PhotoFileError: if a result is missing or damaged.
    """
    pages = [outcomes[start : start + SHEET_SIZE] for start in range(0, len(outcomes), SHEET_SIZE)]
    for number, page in enumerate(pages, start=1):
        target = page_path(path, number, len(pages))
        write_picture(draw_page(page), target)
        yield target


def draw_page(outcomes: list[PhotoOutcome]) -> PIL.Image.Image:
    """Draw a page of at most `SHEET_SIZE` results."""
    columns, rows = min(COLUMNS, len(outcomes)), -(-len(outcomes) // COLUMNS)
    width, height = TILE + GAP, TILE + CAPTION + GAP
    page = PIL.Image.new("RGB", (GAP + columns * width, GAP + rows * height), "white")
    draw, font = PIL.ImageDraw.Draw(page), PIL.ImageFont.load_default(13)
    for index, outcome in enumerate(outcomes):
        x, y = GAP + index % COLUMNS * width, GAP + index // COLUMNS * height
        tile = draw_tile(outcome)
        page.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
        draw.text((x, y + TILE + 2), shown_name(outcome), "black", font)
        draw.text((x, y + TILE + 17), describe(outcome), COLOURS.get(outcome.status, "black"), font)
    return page


def draw_tile(outcome: PhotoOutcome) -> PIL.Image.Image:
    """Draw the thumbnail of a result, of at most `TILE` x `TILE` pixels, or the refusal."""
    if outcome.status != "refused":
        tile = read_photo(outcome.job.output).image
        tile.thumbnail((TILE, TILE), PIL.Image.Resampling.LANCZOS)
        return tile
    tile = PIL.Image.new("RGB", (TILE, TILE), "#e5e7eb")
    reason = "\n".join(textwrap.wrap(outcome.reason, 28)[:10])
    PIL.ImageDraw.Draw(tile).text((10, 10), reason, "#374151", PIL.ImageFont.load_default(13))
    return tile


def shown_name(outcome: PhotoOutcome) -> str:
    """File name of the result, printable and at most 28 characters long."""
    name = printable(outcome.job.output.name)
    return name if len(name) <= 28 else f"{name[:27]}…"


def describe(outcome: PhotoOutcome) -> str:
    """Status and number of faces of a photo."""
    count = len(outcome.faces)
    return outcome.status if not count else f"{outcome.status}, {count} face{'s' if count > 1 else ''}"
