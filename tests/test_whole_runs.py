"""The command on whole folders: two hundred files of every kind, and runs that are killed. Minutes,
so marked slow.

python -m pytest -m slow tests/test_whole_runs.py -s        # -s shows the table of what happened to
which file
"""

import filecmp
import io
import json
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
from skimage import data

from nullface_pipeline import NoFaceFoundError
from nullface_pipeline.photo_files import read_photo
from nullface_pipeline.tiny_model import load_nullface_tiny


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PORTRAITS = Path(__file__).parents[2] / "shared" / "data" / "portraits.parquet"
FORMATS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".bmp": "BMP"}


def command(*arguments: object) -> list[str]:
    return [
        *(sys.executable, "-c", "from nullface_pipeline.cli import main; main()", "anonymize"),
        *(str(argument) for argument in (*arguments, "--seed", 0)),
    ]


def read_portraits(count: int) -> list[PIL.Image.Image]:
    parquet = pytest.importorskip("pyarrow.parquet")
    if not PORTRAITS.exists():
        pytest.skip("needs the portraits in ../shared/data")
    images = parquet.read_table(PORTRAITS, columns=["image"], filters=[("split", "=", "validation")])["image"]
    return [PIL.Image.open(io.BytesIO(image.as_py())).convert("RGB") for image in images[:count]]


def encode(picture: PIL.Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format=format, **options)
    return file.getvalue()


def png_bomb() -> bytes:
    """A PNG header that promises 40,000 x 40,000 pixels."""
    header = struct.pack(">II5B", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))


def heic(picture: PIL.Image.Image) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    return encode(picture, "HEIF", quality=90)


def turned_jpeg(picture: PIL.Image.Image) -> bytes:
    """Stored on its side, with the EXIF orientation that says so."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return encode(picture.transpose(PIL.Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)


def sixteen_bit(picture: PIL.Image.Image) -> bytes:
    return encode(PIL.Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257), "PNG")


def small_face(picture: PIL.Image.Image) -> bytes:
    sheet = PIL.Image.new("RGB", (300, 300), (120, 130, 140))
    sheet.paste(picture.crop((150, 20, 310, 210)).resize((54, 64)), (120, 120))
    return encode(sheet, "PNG")


def dithered_transparency(picture: PIL.Image.Image) -> bytes:
    picture = picture.convert("RGB")
    picture.putalpha(picture.convert("1").convert("L"))
    return encode(picture, "PNG")


def talkative_profile(picture: PIL.Image.Image) -> bytes:
    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    return encode(picture, "JPEG", quality=95, icc_profile=profile + encode(picture.resize((48, 48)), "JPEG"))


def cut_out(picture: PIL.Image.Image) -> bytes:
    """A portrait with soft edges; its transparency stays."""
    picture = picture.convert("RGBA")
    picture.putalpha(PIL.Image.new("L", picture.size, 255))
    picture.paste((0, 0, 0, 0), (0, 300, 512, 512))
    return encode(picture, "PNG")


# Kind: the file's suffix, its content from a portrait of the astronaut, and what has to become of
# it.
SPECIAL = {
    "truncated": (".jpg", lambda face: encode(face, "JPEG", quality=95)[:9000], "refused"),
    "zero bytes": (".jpg", lambda face: b"", "refused"),
    "wrong extension": (".jpg", lambda face: encode(face, "PNG"), "anonymized"),
    "bomb": (".png", lambda face: png_bomb(), "refused"),
    "text": (".jpg", lambda face: b"Dear Sir or Madam,\n", "refused"),
    "one pixel": (".png", lambda face: encode(PIL.Image.new("RGB", (1, 1)), "PNG"), "refused"),
    "turned by EXIF": (".jpg", turned_jpeg, "anonymized"),
    "CMYK": (".jpg", lambda face: encode(face.convert("CMYK"), "JPEG", quality=95), "anonymized"),
    "16 bits": (".png", sixteen_bit, "anonymized"),
    "animated": (
        ".webp",
        lambda face: encode(face, "WEBP", save_all=True, append_images=[face.rotate(9)], duration=99),
        "refused",
    ),
    "HEIC": (".heic", heic, "anonymized"),
    "no face": (".jpg", lambda face: encode(PIL.Image.new("RGB", (320, 240), "beige"), "JPEG"), "refused"),
    "face too small": (".png", small_face, "covered"),
    "dithered transparency": (".png", dithered_transparency, "refused"),
    "foreign bytes in the profile": (".jpg", talkative_profile, "anonymized"),
    "cut out": (".png", cut_out, "anonymized"),
    "control \x1b[2J characters\n": (".jpg", lambda face: encode(face, "JPEG", quality=95), "anonymized"),
    "named [red] and no photo": (".jpg", lambda face: b"\x1b[31m", "refused"),
}


def fill_folder(folder: Path) -> dict[Path, str]:
    """200 files in three folders; returns the kind of each by its path relative to the folder."""
    kinds = {}
    for number, portrait in enumerate(read_portraits(160)):
        suffix = list(FORMATS)[number % len(FORMATS)]
        path = Path(("", "ward", "ward/2026")[number % 3]) / f"{number:03}{suffix}"
        kinds[path] = "portrait", encode(portrait, FORMATS[suffix])
    astronaut = PIL.Image.fromarray(data.astronaut())
    names = list(SPECIAL)
    for number in range(40):
        kind = names[number % len(names)]
        suffix, make, _ = SPECIAL[kind]
        kinds[Path("mixed") / f"{number:03}-{kind.replace(' ', '-')}{suffix}"] = kind, make(astronaut)
    for path, (_, content) in kinds.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return {path: kind for path, (kind, _) in kinds.items()}


def lead_astray(folder: Path, output: Path) -> None:
    """What folders may hold besides: links elsewhere, and originals that lie under the names of
    results.
    """
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    PIL.Image.fromarray(data.astronaut()).save(elsewhere / "secret.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "round").symlink_to(folder)
    (output / "ward").mkdir(parents=True)


def test_originals_in_the_output_are_refused(tmp_path):
    folder, output = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for number, portrait in enumerate(read_portraits(4)):
        portrait.save(folder / f"{number}.png")
    output.mkdir()
    (output / "0.png").write_bytes((folder / "0.png").read_bytes())
    (output / "1.png").write_bytes((folder / "2.png").read_bytes())
    (output / "3.png").write_bytes(b"somebody's own")
    run = subprocess.run(command(folder, "-o", output), capture_output=True, text=True)
    assert run.returncode == 4 and run.stdout.count("refused ") >= 3, run.stdout
    assert (output / "3.png").read_bytes() == b"somebody's own"
    run = subprocess.run(command(folder, "-o", output, "--overwrite"), capture_output=True, text=True)
    assert run.returncode in (0, 3), run.stdout
    originals = {path.read_bytes() for path in folder.iterdir()}
    assert not originals & {path.read_bytes() for path in output.iterdir()}


def test_two_hundred_mixed_files(tmp_path):
    folder, output, report = tmp_path / "photos", tmp_path / "out", tmp_path / "report.jsonl"
    kinds = fill_folder(folder)
    assert len(kinds) == 200
    lead_astray(folder, output)
    before = {path: (folder / path).read_bytes() for path in kinds}
    run = subprocess.run(
        command(folder, "-o", output, "--report", report, "--min-face", 40), capture_output=True, text=True
    )
    assert run.returncode == 4, run.stderr
    assert "Traceback" not in run.stderr + run.stdout
    records = {
        Path(record["source"]).relative_to(folder): record
        for record in map(json.loads, report.read_text().splitlines())
    }
    assert set(records) == set(kinds)

    table = Counter((kinds[path], record["status"], record["reason"]) for path, record in records.items())
    for (kind, status, reason), count in sorted(table.items(), key=str):
        print(f"{kind:16} {count:4} {status:11} {reason or ''}")
    for path, kind in kinds.items():
        if kind in SPECIAL:
            assert records[path]["status"] == SPECIAL[kind][2], (path, records[path])

    written = {path.relative_to(output) for path in output.rglob("*") if path.is_file()}
    assert written == {path for path, record in records.items() if record["status"] != "refused"}
    for path in written:
        old, new = (np.asarray(read_photo(root / path).image).astype(int) for root in (folder, output))
        assert old.shape == new.shape and records[path]["faces"]
        for face in records[path]["faces"]:
            x0, y0, x1, y1 = (max(0, round(value)) for value in face["box"])
            assert np.abs(new - old)[y0:y1, x0:x1].mean() > 1, (path, face)
            assert face["method"] in ("replaced", "covered")
    assert {path: (folder / path).read_bytes() for path in kinds} == before, "originals stay as they are"


def test_killed_runs_end_as_one_that_was_not(tmp_path):
    folder, whole, killed = tmp_path / "photos", tmp_path / "whole", tmp_path / "killed"
    folder.mkdir()
    for number, portrait in enumerate(read_portraits(24)):
        portrait.save(folder / f"{number:02}.png")
    subprocess.run(command(folder, "-o", whole, "--report", tmp_path / "whole.jsonl"), capture_output=True)
    names = sorted(path.name for path in whole.iterdir())
    assert len(names) >= 20

    def finished():
        return sorted(path.name for path in killed.glob("[0-9]*"))

    rng, done = random.Random(0), []
    for count in sorted(rng.sample(range(1, len(names) - 1), 5)):
        run = subprocess.Popen(
            command(folder, "-o", killed, "--report", tmp_path / "killed.jsonl"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(finished()) < count and run.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.0))
        assert run.poll() is None, "killed before its end"
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert filecmp.cmpfiles(whole, killed, finished(), shallow=False) == (finished(), [], []), (
            "complete, or absent"
        )
        done.append(len(finished()))
    print(f"finished after each kill: {done} of {len(names)}")

    last = subprocess.run(command(folder, "-o", killed, "--report", tmp_path / "killed.jsonl"), capture_output=True)
    assert last.returncode in (0, 3, 4)
    assert sorted(path.name for path in killed.iterdir()) == names, "no leftovers either"
    assert filecmp.cmpfiles(whole, killed, names, shallow=False) == (names, [], [])

    def outcomes(report):
        records = {record["source"]: record for record in map(json.loads, report.read_text().splitlines())}
        return {source: (record["status"], record["faces"]) for source, record in records.items()}

    assert outcomes(tmp_path / "killed.jsonl") == outcomes(tmp_path / "whole.jsonl")


def test_nobody_passes_when_the_identity_path_is_off():
    """Without guidance the result is the person: verification has to notice it in every single
    face.
    """
    pipe = load_nullface_tiny()
    pipe.set_progress_bar_config(disable=True)
    methods, similarities = Counter(), []
    for number, portrait in enumerate(read_portraits(40)):
        settings = {"num_inference_steps": 20, "skip": 0.7, "guidance_scale": 0.0, "max_attempts": 1}
        try:
            result = pipe.anonymize(portrait, seed=number, **settings)
        except NoFaceFoundError:
            continue
        methods.update(face.method for face in result.faces)
        similarities += [face.similarity for face in result.faces if face.similarity is not None]
    print(f"{dict(methods)}; similarities from {min(similarities):.2f} to {max(similarities):.2f}")
    assert methods["covered"] >= 35 and set(methods) == {"covered"}


def test_some_fail_are_tried_again_and_then_covered():
    pipe = load_nullface_tiny()
    pipe.set_progress_bar_config(disable=True)
    ends = Counter()
    for number, portrait in enumerate(read_portraits(20)):
        result = pipe.anonymize(portrait, seed=number, similarity_threshold=-0.1)
        for face in result.faces:
            ends[face.method, face.attempts] += 1
            assert (face.method == "replaced") == (face.similarity is not None and face.similarity < -0.1)
    for (method, attempts), count in sorted(ends.items()):
        print(f"{method:9} after {attempts} attempt(s): {count}")
    assert {attempts for method, attempts in ends if method == "replaced"} >= {1, 2}
    assert ends["covered", 3] > 0
