"""The page of the Space, function by function. What a browser makes of it is in test_space_browser.py."""

import base64
import io
import re
import sys
import time
import tomllib
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from packaging.requirements import Requirement
from skimage import data

from nullface_pipeline import __version__
from nullface_pipeline.face_edit import make_target
from nullface_pipeline.face_parsing import region_mask
from nullface_pipeline.photo_records import FaceRecord

from .video.clips import write_clip


pytest.importorskip("gradio")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def app():
    """The page's module, its model loaded."""
    sys.path.insert(0, str(ROOT / "space"))
    import app

    return app


@pytest.fixture
def upload(app):
    """Puts bytes where Gradio puts an upload, and returns the path."""

    def put(data: bytes, name: str) -> str:
        folder = Path(app.UPLOADS) / "0123456789abcdef"
        folder.mkdir()
        (folder / name).write_bytes(data)
        return str(folder / name)

    return put


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def two_people():
    """Without the part of the suit that nullface-tiny's detector takes for a third."""
    return np.hstack([data.astronaut(), data.astronaut()[:, ::-1]])[:460]


def nothing_painted(photo):
    from page_parts import brush_value

    return brush_value(photo.view)


def painting(photo, box):
    """A brush value with a painted rectangle (x0, y0, x1, y1)."""
    layer = PIL.Image.new("RGBA", (photo.view.shape[1], photo.view.shape[0]))
    layer.paste((0, 110, 180, 255), box)
    return nothing_painted(photo) | {"mask": "data:image/png;base64," + base64.b64encode(encoded(layer)).decode()}


def run(app, photo, chosen=("Face 1",), kept=(), painted=None, cover="patch"):
    painted = nothing_painted(photo) if painted is None else painted
    return app.run(photo, list(chosen), list(kept), painted, "standard", cover, *app.set_knobs("standard"))


def download(shown):
    """Name and bytes of the file that a result offers."""
    name, encoded_bytes = re.search(r'download="([^"]+)" href="data:image/\w+;base64,([^"]+)"', shown).groups()
    return name, base64.b64decode(encoded_bytes)


def pixels(file):
    return np.asarray(PIL.Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


def eye_pixels(pipe, photo):
    """(H, W) bool: what the parser takes for the eyes of the first face."""
    image = np.asarray(photo.file.image)
    target = make_target(pipe, image, photo.faces[0], photo.faces, ("eyes",), None, None)
    eyes = region_mask(pipe.face_parser(target.aligned), pipe.face_parser.labels, ["eyes"]).astype(np.float32)
    white = target.crop.paste(np.zeros_like(image), np.full_like(target.aligned, 255), eyes)
    return white.min(axis=-1) == 255


def test_example_is_open_from_the_start(app):
    shown = app.show_example()
    assert shown[app.state].faces and shown[app.faces]["choices"] == ["Face 1"]
    assert "1 face was found" in shown[app.status]
    assert 'src="data:image/jpeg;base64,' in shown[app.preview] and 'alt="Your photo with 1' in shown[app.preview]


def test_upload_is_opened_and_its_file_deleted(app, upload):
    path = upload(encoded(PIL.Image.fromarray(two_people()), "JPEG"), "us.jpg")
    shown = app.show_upload(path)
    assert shown[app.faces]["choices"] == ["Face 1", "Face 2"] and shown[app.faces]["value"] == ["Face 1", "Face 2"]
    assert shown[app.state].faces[0].box[0] < shown[app.state].faces[1].box[0]
    assert not Path(path).parent.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"This is a text.", "cannot be used. It is not a JPEG, PNG"),
        (b"", "The file is empty"),
        (encoded(PIL.Image.new("L", (10_000, 6_000)), "JPEG"), "more than 25,000,000 pixels"),
        (encoded(PIL.Image.new("RGB", (300, 300), "white")), "No face was found"),
        (encoded(PIL.Image.fromarray(data.astronaut()))[:20_000], "damaged or cut off"),
    ],
    ids=["text", "empty", "60 megapixels", "no face", "cut off"],
)
def test_what_cannot_be_used_is_refused_in_plain_words(app, upload, content, message):
    path = upload(content, "photo.jpg")
    with pytest.warns(UserWarning, match=message):
        shown = app.show_upload(path)
    assert message in shown[app.status]
    assert shown[app.state] is None and shown[app.preview] == "" and shown[app.result] == ""
    assert not Path(path).parent.exists()


def test_result_keeps_eyes_and_painting_and_drops_the_metadata(app, upload):
    exif = PIL.Image.Exif()
    exif[0x010E] = "at home"
    path = upload(encoded(PIL.Image.fromarray(data.astronaut()), exif=exif), "me & you.png")
    photo = app.show_upload(path)[app.state]
    x0, y0, _, _ = photo.faces[0].box.astype(int).tolist()
    cheek = (x0 + 20, y0 + 60, x0 + 45, y0 + 80)
    status, shown = run(app, photo, kept=["eyes"], painted=painting(photo, cheek))
    assert status == "Done. The result is below."
    assert re.search(r"Face 1: replaced\. Not recognised as the same person \(similarity -?0\.\d\d; same", shown)

    name, file = download(shown)
    assert name == "me &amp; you-anonymized.png"
    written = PIL.Image.open(io.BytesIO(file))
    assert written.format == "PNG" and not written.getexif() and b"at home" not in file
    assert b"compositeWithTrainedAlgorithmicMedia" in file
    before, after = data.astronaut().astype(int), pixels(file)
    changed = np.abs(after - before).max(axis=-1)
    eyes = eye_pixels(app.MODEL.pipe, photo)
    assert eyes.sum() > 30 and changed[eyes].max() == 0
    # The edge of what is painted is soft, by about two pixels of the model.
    assert changed[cheek[1] + 4 : cheek[3] - 4, cheek[0] + 4 : cheek[2] - 4].max() <= 1
    x, y = photo.faces[0].landmarks[2].round().astype(int)
    assert changed[y - 8 : y + 8, x - 8 : x + 8].mean() > 5, "the nose is another"
    assert changed[300:].max() == 0


def test_unticked_face_stays(app, upload):
    photo = app.show_upload(upload(encoded(PIL.Image.fromarray(two_people())), "us.png"))[app.state]
    status, shown = run(app, photo, chosen=["Face 2"])
    assert "Face 1: left as it was, as you chose." in shown and "Face 2: " in shown
    changed = np.abs(pixels(download(shown)[1]) - two_people()).max(axis=-1)
    assert changed[:, :512].max() == 0 and changed[:, 512:].max() > 20


def test_painting_of_another_photo_is_refused(app):
    painted = painting(app.EXAMPLE, (0, 0, 9, 9))
    other = app.open_photo(app.EXAMPLE.file, app.MODEL.pipe.face_analyser)
    other = type(other)(other.file, other.faces, other.view[:400])
    with pytest.warns(UserWarning):
        status, shown = run(app, other, painted=painted)
    assert "another photo" in status and shown == ""


def test_tint_shows_what_changes(app):
    from open_photo import draw_changes

    photo = app.EXAMPLE
    x, y = photo.faces[0].landmarks[2].astype(int)
    eye_x, eye_y = photo.faces[0].landmarks[0].round().astype(int)

    def tinted(chosen, keep):
        drawn = np.asarray(draw_changes(app.MODEL.pipe, photo, chosen, keep, None)).astype(int)
        return np.abs(drawn - photo.view).max(axis=-1)

    assert tinted([0], [])[y, x] > 10 and tinted([0], [])[eye_y, eye_x] > 10
    assert tinted([0], ["eyes"])[y, x] > 10 and tinted([0], ["eyes"])[eye_y, eye_x] == 0
    assert tinted([], [])[y, x] == 0


@pytest.mark.parametrize(
    ("chosen", "kept", "message"),
    [
        ([], [], "Tick at least one face"),
        (["Face 2"], [], "Tick at least one face"),
        (["Face 1"], ["skin", "brows", "eyes", "glasses", "nose", "mouth", "ears"], "without skin to change"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_no_result_without_a_change(app, chosen, kept, message):
    status, shown = run(app, app.EXAMPLE, chosen, kept)
    assert message in status and shown == ""


def test_forgotten_photo(app):
    status, shown = app.run(None, ["Face 1"], [], {"mask": ""}, "standard", "patch", *app.set_knobs("standard"))
    assert "No photo is open" in status and shown == ""


@pytest.mark.parametrize(
    ("method", "similarity", "attempts", "sentence"),
    [
        (
            "nullface",
            -0.04,
            1,
            "Face 1: replaced. Not recognised as the same person (similarity -0.04; same person from 0.54).",
        ),
        (
            "covered",
            0.61,
            3,
            "Face 1: covered, because it was still recognised after 3 attempts (similarity 0.61; same person from 0.54).",
        ),
        ("covered", None, 0, "Face 1: covered, because you left too little of it to change."),
        ("spared", None, 0, "Face 1: left as it was, as you chose."),
    ],
)
def test_plain_words(app, method, similarity, attempts, sentence):
    from page_parts import describe_face

    assert describe_face(FaceRecord((0, 0, 9, 9), 0.9, similarity, attempts, method), "Face 1", 0.54) == sentence


def test_faces_that_were_not_found_at_first_are_said_to_be_so(app):
    from page_parts import describe_face

    sentence = "Another face: covered, because it was seen only when the finished photo was checked."
    assert describe_face(FaceRecord((0, 0, 9, 9), 0.9, None, 0, "covered"), "Another face", 0.54) == sentence


@pytest.mark.parametrize(("cover", "is_one_colour"), [("patch", True), ("mosaic", False)])
def test_a_face_that_is_painted_over_is_covered_as_chosen_and_said_to_be(app, cover, is_one_colour):
    everything = painting(app.EXAMPLE, (0, 0, *app.EXAMPLE.view.shape[1::-1]))
    status, shown = run(app, app.EXAMPLE, painted=everything, cover=cover)
    assert "1 face(s) covered" in status and "you left too little of it to change" in shown
    x0, y0, x1, y1 = app.EXAMPLE.faces[0].box.round().astype(int)
    covered = pixels(download(shown)[1])[y0:y1, x0:x1].reshape(-1, 3)
    assert (len(np.unique(covered, axis=0)) == 1) == is_one_colour


def test_strengths_set_the_knobs(app):
    assert app.set_knobs("standard") == [0.87, 4.0, 1.0, 0.8]
    assert app.set_knobs("strong") == [0.87, 5.0, 1.0, 0.8]


def test_weights_that_cannot_be_loaded_leave_nullface_tiny(app, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(app, "missing_weights", lambda name: [])
    model = app.load_model()
    assert model.name == "tiny" and "only a demonstration" in model.notice
    assert "Stable Diffusion 1.5 could not be loaded" in capsys.readouterr().out


@pytest.fixture
def address(app):
    """Where the page is served."""
    _, address, _ = app.launch(quiet=True)
    yield address
    app.page.close()


def test_server_keeps_to_its_limits(app, address):
    config = app.page.get_config_file()
    assert config["analytics_enabled"] is False and app.page.run_history is False
    assert urllib.request.urlopen(address).status == 200
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + bytes(32 * 2**20)
    request = urllib.request.Request(
        f"{address}gradio_api/upload",
        body + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(request)
    assert not [path for path in Path(app.UPLOADS).rglob("*") if path.is_file()]


def test_closed_page_is_forgotten(app, address):
    app.page.state_holder["visitor"][app.state._id] = app.EXAMPLE
    # A page keeps this connection open for as long as it is open itself.
    with urllib.request.urlopen(f"{address}gradio_api/heartbeat/visitor") as heartbeat:
        heartbeat.read(1)
        assert "visitor" in app.page.state_holder.session_data
    deadline = time.monotonic() + 20
    while "visitor" in app.page.state_holder.session_data:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_idle_page_is_forgotten(app, address):
    for visitor in ("idle", "busy"):
        app.page.state_holder[visitor][app.state._id] = app.EXAMPLE
    app.page.state_holder.time_last_used["idle"] -= timedelta(seconds=app.FORGET_AFTER + 1)
    app.forget_idle_visitors()
    assert list(app.page.state_holder.session_data) == ["busy"]


def test_space_installs_this_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirement = Requirement((ROOT / "space" / "requirements.txt").read_text().strip())
    assert requirement.name == project["name"] and requirement.extras <= set(project["optional-dependencies"])
    assert requirement.specifier.contains(__version__)
    card = (ROOT / "space" / "README.md").read_text()
    gradio = Requirement(project["optional-dependencies"]["space"][0])
    assert gradio.specifier.contains(re.search(r"^sdk_version: (\S+)$", card, re.MULTILINE)[1])


@pytest.fixture
def clip(tmp_path):
    """Two frames, which are covered and so take no time."""
    small = np.ascontiguousarray(data.astronaut()[:240, 100:340])
    return write_clip(tmp_path / "clip.mp4", [small, small], [0, 40], metadata={"title": "At home"}).read_bytes()


def test_clip_is_shown_before_and_after(app, upload, clip):
    path = upload(clip, "me & you.mp4")
    opened, said = app.show_clip_upload(path)
    assert "me & you.mp4 is open" in said and not Path(path).parent.exists()
    said, shown = app.run_clip(opened, "fast")
    assert "Done" in said and shown.count("<video") == 2 and "in 2 frames something is covered" in shown
    after = base64.b64decode(
        re.search(r'download="me &amp; you-anonymized.mp4" href="data:video/mp4;base64,([^"]+)"', shown)[1]
    )
    assert b"ftyp" in after[:16] and b"At home" not in after


@pytest.mark.parametrize(
    ("frames", "pts", "message"),
    [
        ([np.zeros((64, 64, 3), np.uint8)] * 2, [0, 31_000], "longer than 30 seconds"),
        ([np.zeros((1200, 1920, 3), np.uint8)] * 2, [0, 40], "full HD or smaller"),
    ],
)
def test_clips_that_are_too_long_or_too_large_are_refused(app, upload, tmp_path, frames, pts, message):
    path = upload(write_clip(tmp_path / "clip.mp4", frames, pts).read_bytes(), "clip.mp4")
    with pytest.warns(UserWarning, match=message):
        opened, said = app.show_clip_upload(path)
    assert opened is None and message in said and not Path(path).parent.exists()


def test_no_clip_without_a_face(app, upload, tmp_path):
    path = upload(
        write_clip(tmp_path / "clip.mp4", [np.full((96, 96, 3), 90, np.uint8)] * 2, [0, 40]).read_bytes(), "a.mp4"
    )
    opened, _ = app.show_clip_upload(path)
    with pytest.warns(UserWarning, match="No face was found in the video"):
        said, shown = app.run_clip(opened, "fast")
    assert "No face was found" in said and shown == ""
    assert "No clip is open" in app.run_clip(None, "fast")[0]
