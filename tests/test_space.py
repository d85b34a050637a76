"""The page of the Space, function by function. What a browser makes of it is in
test_space_browser.py.
"""

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import socket
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import pytest
from packaging.requirements import Requirement
from skimage import data

from nullface_pipeline import __version__
from nullface_pipeline.face_parsing import region_mask
from nullface_pipeline.face_target import make_target
from nullface_pipeline.photo_records import FaceRecord

from .video.clips import write_clip


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def app() -> ModuleType:
    """The page's module, its model loaded."""
    pytest.importorskip("gradio")
    sys.path.insert(0, str(ROOT / "space"))
    import app

    return app


@pytest.fixture
def upload(app: ModuleType) -> Callable[[bytes, str], str]:
    """Puts bytes where Gradio puts an upload, and returns the path."""

    def put(data: bytes, name: str) -> str:
        folder = Path(app.UPLOADS) / "0123456789abcdef"
        folder.mkdir()
        (folder / name).write_bytes(data)
        return str(folder / name)

    return put


def encoded(image: PIL.Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def two_people() -> np.ndarray:
    """Without the part of the suit that nullface-tiny's detector takes for a third."""
    return np.hstack([data.astronaut(), data.astronaut()[:, ::-1]])[:460]


def nothing_painted(photo: Any) -> dict[str, Any]:
    from page_parts import brush_value

    return brush_value(photo.view)


def painting(photo: Any, box: tuple[int, int, int, int]) -> dict[str, Any]:
    """A brush value with a painted rectangle (x0, y0, x1, y1)."""
    layer = PIL.Image.new("RGBA", (photo.view.shape[1], photo.view.shape[0]))
    layer.paste((0, 110, 180, 255), box)
    return nothing_painted(photo) | {"mask": "data:image/png;base64," + base64.b64encode(encoded(layer)).decode()}


def run(
    app: ModuleType,
    photo: Any,
    chosen: Sequence[str] = ("Face 1",),
    kept: Sequence[str] = (),
    painted: dict[str, Any] | None = None,
    cover: str = "solid",
    preset: str = "fast",
) -> tuple[str, str]:
    painted = nothing_painted(photo) if painted is None else painted
    return app.run(photo, list(chosen), list(kept), painted, preset, cover, *app.set_knobs(preset))


def download(shown: str) -> tuple[str, bytes]:
    """Name and bytes of the file that a result offers."""
    name, encoded_bytes = re.search(r'download="([^"]+)" href="data:image/\w+;base64,([^"]+)"', shown).groups()
    return name, base64.b64decode(encoded_bytes)


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


def eye_pixels(pipe: Any, photo: Any) -> np.ndarray:
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
        (lambda: b"This is a text.", "cannot be used. It is not a JPEG, PNG"),
        (lambda: b"", "The file is empty"),
        (lambda: encoded(PIL.Image.new("L", (10_000, 6_000)), "JPEG"), "25,000,000"),
        (lambda: encoded(PIL.Image.new("RGB", (300, 300), "white")), "No face was found"),
        (lambda: encoded(PIL.Image.fromarray(data.astronaut()))[:20_000], "damaged or cut off"),
    ],
    ids=["text", "empty", "60 megapixels", "no face", "cut off"],
)
def test_what_cannot_be_used_is_refused_in_plain_words(app, upload, content, message):
    path = upload(content(), "photo.jpg")
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
    assert re.search(r"Face 1: replaced\. It does not match the person \(similarity -?0\.\d\d, threshold", shown)

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
    assert "Face 1: kept, as you chose." in shown and "Face 2: " in shown
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
        ([], [], "Select at least one face"),
        (["Face 2"], [], "Select at least one face"),
        (["Face 1"], ["skin", "brows", "eyes", "glasses", "nose", "mouth", "ears"], "must not hold the skin"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_no_result_without_a_change(app, chosen, kept, message):
    status, shown = run(app, app.EXAMPLE, chosen, kept)
    assert message in status and shown == ""


def test_forgotten_photo(app):
    status, shown = app.run(None, ["Face 1"], [], {"mask": ""}, "standard", "solid", *app.set_knobs("standard"))
    assert "No photo is open" in status and shown == ""


@pytest.mark.parametrize(
    ("method", "similarity", "attempts", "sentence"),
    [
        (
            "replaced",
            -0.04,
            1,
            "Face 1: replaced. It does not match the person (similarity -0.04, threshold 0.54).",
        ),
        (
            "covered",
            0.61,
            3,
            "Face 1: covered, because it still matched the person after 3 attempts (similarity 0.61, threshold 0.54).",
        ),
        ("covered", None, 0, "Face 1: covered, because the kept regions leave too little of it to change."),
        ("kept", None, 0, "Face 1: kept, as you chose."),
    ],
)
def test_plain_words(app, method, similarity, attempts, sentence):
    from page_parts import describe_face

    assert describe_face(FaceRecord((0, 0, 9, 9), 0.9, similarity, attempts, method), "Face 1", 0.54) == sentence


def test_faces_that_were_not_found_at_first_are_said_to_be_so(app):
    from page_parts import describe_face

    sentence = "Another face: covered, because it was found only in the finished photo."
    assert describe_face(FaceRecord((0, 0, 9, 9), 0.9, None, 0, "covered"), "Another face", 0.54) == sentence


@pytest.mark.parametrize(("cover", "is_one_colour"), [("solid", True), ("mosaic", False)])
def test_a_face_that_is_painted_over_is_covered_as_chosen_and_said_to_be(app, cover, is_one_colour):
    everything = painting(app.EXAMPLE, (0, 0, *app.EXAMPLE.view.shape[1::-1]))
    status, shown = run(app, app.EXAMPLE, painted=everything, cover=cover)
    assert "1 face(s) covered" in status and "leave too little of it to change" in shown
    x0, y0, x1, y1 = app.EXAMPLE.faces[0].box.round().astype(int)
    covered = pixels(download(shown)[1])[y0:y1, x0:x1].reshape(-1, 3)
    assert (len(np.unique(covered, axis=0)) == 1) == is_one_colour


def test_strengths_set_the_knobs(app):
    assert app.set_knobs("standard") == [0.87, 4.25, 1.0, 0.8]
    assert app.set_knobs("strong") == [0.87, 5.0, 1.0, 0.8]


def test_the_private_strength_is_for_photos(app):
    status, shown = run(app, app.EXAMPLE, preset="private")
    assert status.startswith("Done") and "<img" in shown
    choices = [block.choices for block in app.page.blocks.values() if getattr(block, "label", None) == "Strength"]
    assert choices and not any(value == "private" for values in choices for _, value in values)


def test_weights_that_cannot_be_loaded_leave_nullface_tiny(app, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(app, "missing_weights", lambda name: [])
    model = app.load_model()
    assert model.name == "tiny" and "demonstration" in model.notice
    assert "Stable Diffusion 1.5 could not be loaded" in capsys.readouterr().out


@pytest.fixture
def address(app: ModuleType) -> Iterator[str]:
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
    assert not files_in(app.UPLOADS)


def test_closed_page_is_forgotten(app, address):
    app.page.state_holder["visitor"][app.state._id] = app.EXAMPLE
    # A page keeps this connection open for as long as it is open itself.
    with urllib.request.urlopen(f"{address}gradio_api/heartbeat/visitor") as heartbeat:
        heartbeat.read(1)
        assert "visitor" in app.page.state_holder.session_data
    wait_for(lambda: "visitor" not in app.page.state_holder.session_data)


def test_idle_page_is_forgotten(app, address):
    for visitor in ("idle", "busy"):
        app.page.state_holder[visitor][app.state._id] = app.EXAMPLE
    app.page.state_holder.time_last_used["idle"] -= timedelta(seconds=app.FORGET_AFTER + 1)
    asyncio.run(app.limits.forget_idle(app.page))
    assert list(app.page.state_holder.session_data) == ["busy"]


def files_in(folder: Path | str) -> list[Path]:
    return [path for path in Path(folder).rglob("*") if path.is_file()]


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def join(address: str, fn_index: int, data: list[Any], session: str) -> tuple[int, Any]:
    """Status and answer of a request to run a function of the page."""
    body = json.dumps({"fn_index": fn_index, "data": data, "session_hash": session}).encode()
    request = urllib.request.Request(f"{address}gradio_api/queue/join", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def function_index(app: ModuleType, name: str) -> int:
    return next(index for index, function in app.page.fns.items() if getattr(function.fn, "__name__", "") == name)


@contextlib.contextmanager
def blocked_pipeline(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str = "run_clip"
) -> Iterator[tuple[int, threading.Event]]:
    """Jobs of one function wait until the end, and then give this result; yields the function's
    number.
    """
    index, release = function_index(app, name), threading.Event()
    monkeypatch.setattr(app.page.fns[index], "fn", lambda *_: (release.wait(20), ("Done", "result"))[1])
    try:
        yield index, release
    finally:
        release.set()


def test_jobs_of_one_visitor_are_limited(app, address, monkeypatch):
    monkeypatch.setattr(app.limits, "MAX_JOBS_PER_SESSION", 2)
    monkeypatch.setattr(app.limits, "MAX_JOBS_PER_ADDRESS", 3)
    with blocked_pipeline(app, monkeypatch) as (index, _):
        answers = [join(address, index, [None, "fast"], session)[0] for session in "aaabcd"]
    assert answers == [200, 200, 400, 200, 400, 400]


def test_photos_and_clips_share_the_pipeline_one_at_a_time(app):
    functions = list(app.page.fns.values())
    jobs = [app.page.fns[function_index(app, name)] for name in ("run", "run_clip")]
    for name in ("anonymize", "anonymize_video"):
        jobs += [function for function in functions if function.api_name == name]
    assert len(jobs) == 4
    assert {(function.concurrency_id, function.concurrency_limit) for function in jobs} == {(app.PIPELINE, 1)}


def test_direct_requests_do_not_skip_the_queue(app, address):
    body = json.dumps({"data": [None, "fast", [], "solid"]}).encode()
    request = urllib.request.Request(f"{address}gradio_api/run/anonymize", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(request)


def test_result_that_was_not_collected_goes_with_its_session(app, address, monkeypatch):
    with blocked_pipeline(app, monkeypatch) as (index, release):
        assert join(address, index, [None, "fast"], "gone")[0] == 200
        wait_for(lambda: "gone" in app.page.state_holder.time_last_used)
        release.set()
        messages = app.page._queue.pending_messages_per_session["gone"]
        wait_for(lambda: any(message.msg == "process_completed" for message in messages._queue))
        wait_for(lambda: not app.limits.pending_events(app.page))
    assert app.limits.held_bytes(app.page, "gone") >= len("Done") + len("result")
    app.page.state_holder.time_last_used["gone"] -= timedelta(seconds=app.FORGET_AFTER + 1)
    wait_for(lambda: messages.empty() and "gone" not in app.page.state_holder.session_data, 5)
    assert app.limits.held_bytes(app.page, "gone") == 0


def test_page_that_is_closed_while_it_is_computed_leaves_nothing(app, address, monkeypatch):
    with blocked_pipeline(app, monkeypatch) as (index, release):
        with urllib.request.urlopen(f"{address}gradio_api/heartbeat/left") as heartbeat:
            heartbeat.read(1)
            assert join(address, index, [None, "fast"], "left")[0] == 200
            wait_for(lambda: "left" in app.page.state_holder.session_data)
        wait_for(lambda: "left" not in app.page.state_holder.session_data)
        release.set()
        wait_for(lambda: not app.limits.pending_events(app.page))
    assert "left" not in app.page.state_holder.session_data
    assert app.limits.held_bytes(app.page, "left") == 0


def test_sessions_are_forgotten_after_an_error_too(app, address, monkeypatch):
    failures = []

    async def fail(page):
        failures.append(page)
        raise OSError("disk")

    monkeypatch.setattr(app.limits, "forget_over_budget", fail)
    wait_for(lambda: failures)
    app.page.state_holder["idle"][app.state._id] = app.EXAMPLE
    app.page.state_holder.time_last_used["idle"] -= timedelta(seconds=app.FORGET_AFTER + 1)
    wait_for(lambda: "idle" not in app.page.state_holder.session_data, 5)


def test_time_in_the_queue_counts_as_use(app, address, monkeypatch):
    with blocked_pipeline(app, monkeypatch) as (index, _):
        join(address, index, [None, "fast"], "waiting")
        wait_for(lambda: "waiting" in app.page.state_holder.time_last_used)
        app.page.state_holder.time_last_used["waiting"] -= timedelta(seconds=app.FORGET_AFTER + 1)
        asyncio.run(app.limits.forget_idle(app.page))
        assert "waiting" in app.page.state_holder.session_data


def test_sessions_over_the_budget_are_forgotten_from_the_oldest(app, monkeypatch):
    app.page.queue()
    size = app.EXAMPLE.nbytes
    assert size == 2 * 512 * 512 * 3

    def held(visitor):
        return app.limits.held_bytes(app.page, visitor)

    for visitor in ("first", "second", "third"):
        app.page.state_holder[visitor][app.state._id] = app.EXAMPLE
    monkeypatch.setattr(app.limits, "MAX_HELD_BYTES", held("second") + held("third"))
    try:
        asyncio.run(app.limits.forget_over_budget(app.page))
        assert held("second") > size and held("third") > size and held("first") == 0
        assert list(app.page.state_holder.session_data) == ["second", "third"]
    finally:
        app.page.state_holder.session_data.clear()
        app.page.state_holder.time_last_used.clear()


@pytest.mark.parametrize("nested", [False, True])
def test_url_in_place_of_an_upload_is_refused(app, address, nested):
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(1)
        file = {"path": f"http://127.0.0.1:{elsewhere.getsockname()[1]}/a.jpg", "meta": {"_type": "gradio.FileData"}}
        name, data = ("draw_preview", [None, [], [], {"a": [file]}]) if nested else ("show_upload", [file])
        status, answer = join(address, function_index(app, name), data, "url")
        with contextlib.suppress(TimeoutError):
            connections.append(elsewhere.accept()[0])
    assert status == 400 and "URL" in answer and not connections


@pytest.mark.parametrize(
    ("path", "content_type", "length", "status"),
    [
        ("upload", "multipart/form-data; boundary=x", 32_000_000, 413),
        ("upload", "multipart/form-data; boundary=x", None, 411),
        ("queue/join", "application/json", 9_000_000, 413),
        ("component_server", "multipart/form-data; boundary=x", 9, 415),
    ],
)
def test_requests_are_limited(app, address, path, content_type, length, status):
    """Also where there are many small files, which Gradio's own limit lets pass."""
    body = iter([b"--x"]) if length is None else bytes(length)
    request = urllib.request.Request(f"{address}gradio_api/{path}", body, {"Content-Type": content_type})
    with pytest.raises(urllib.error.HTTPError, match=str(status)):
        urllib.request.urlopen(request)
    assert not files_in(app.UPLOADS)


def test_upload_that_breaks_off_is_deleted(app, address, monkeypatch):
    monkeypatch.setattr(app.limits, "DELETE_AFTER", 1)
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9999999\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            'Content-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'.encode()
            + bytes(300_000)
        )
        wait_for(lambda: files_in(app.UPLOADS))
    wait_for(lambda: not files_in(app.UPLOADS))


def test_folders_of_killed_servers_are_deleted(app, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"{app.limits.FOLDER_PREFIX}left"
    left.mkdir()
    (left / "photo.jpg").write_bytes(b"photo")
    with app.limits.process_folder() as first, app.limits.process_folder() as second:
        assert not left.exists() and first.exists() and second.exists()
    assert not list(tmp_path.iterdir())


def test_api_client_anonymizes_a_photo(app, address, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    source = tmp_path / "me.png"
    PIL.Image.fromarray(data.astronaut()).save(source)
    client = gradio_client.Client(address, verbose=False, download_files=tmp_path)
    result = client.predict(gradio_client.handle_file(source), strength="fast", keep=["eyes"], api_name="/anonymize")
    assert Path(result).name == "me-anonymized.png"
    changed = np.abs(pixels(Path(result).read_bytes()) - data.astronaut()).max(axis=-1)
    assert changed[90:150, 200:250].mean() > 5 and changed[300:].max() == 0
    assert not [path for path in files_in(app.UPLOADS) if path.name == "me.png"]

    PIL.Image.new("RGB", (300, 300), "white").save(source)
    with pytest.raises(gradio_client.exceptions.AppError, match="No face"):
        client.predict(gradio_client.handle_file(source), api_name="/anonymize")


def test_api_client_anonymizes_a_clip(app, address, clip, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    (tmp_path / "me.mp4").write_bytes(clip)
    client = gradio_client.Client(address, verbose=False, download_files=tmp_path / "results")
    result = client.predict(gradio_client.handle_file(tmp_path / "me.mp4"), api_name="/anonymize_video")
    assert Path(result).name == "me-anonymized.mp4" and b"ftyp" in Path(result).read_bytes()[:16]


def test_space_installs_this_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirement = Requirement((ROOT / "space" / "requirements.txt").read_text().strip())
    assert requirement.name == project["name"] and requirement.extras <= set(project["optional-dependencies"])
    assert requirement.specifier.contains(__version__)
    card = (ROOT / "space" / "README.md").read_text()
    gradio = Requirement(project["optional-dependencies"]["space"][0])
    assert gradio.specifier.contains(re.search(r"^sdk_version: (\S+)$", card, re.MULTILINE)[1])


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    """Two frames, which are covered and so take no time."""
    small = np.ascontiguousarray(data.astronaut()[:240, 100:340])
    return write_clip(tmp_path / "clip.mp4", [small, small], [0, 40], metadata={"title": "At home"}).read_bytes()


def test_playlist_in_place_of_a_clip_is_refused(app, upload, clip, tmp_path):
    """A playlist would have FFmpeg read any other file of the server."""
    (tmp_path / "secret.mp4").write_bytes(clip)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n".encode()
    for name, content in (("a.m3u8", playlist), ("a.mp4", playlist), ("a.m3u8", clip), ("a.avi", clip)):
        path = upload(content, name)
        with pytest.warns(UserWarning):
            opened, said = app.show_clip_upload(path)
        assert opened is None and "cannot be used" in said and not Path(path).exists()


def test_photo_with_the_suffix_of_another_type_is_refused(app, upload):
    with pytest.warns(UserWarning):
        shown = app.show_upload(upload(encoded(PIL.Image.fromarray(data.astronaut())), "a.m3u8"))
    assert shown[app.state] is None and "not supported" in shown[app.status]


@pytest.mark.parametrize("in_memory", [True, False])
def test_original_of_a_clip_is_not_on_the_disk_while_it_is_anonymized(app, clip, monkeypatch, tmp_path, in_memory):
    import open_clip

    work, other = tmp_path / "work", tmp_path / "other"
    work.mkdir()
    other.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(other))
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif not hasattr(os, "memfd_create"):
        pytest.skip("files in memory are Linux only")
    on_disk = []

    def link(analyser, source, folder, tell):
        assert source.read_bytes() == clip
        on_disk.extend(path for path in [*files_in(work), *files_in(other)] if path.read_bytes() == clip)
        raise app.PhotoRefusedError("enough")

    monkeypatch.setattr(open_clip, "link_video", link)
    with pytest.raises(app.PhotoRefusedError, match="enough"):
        app.anonymize_clip(app.MODEL.pipe, app.OpenClip("a.mp4", clip), None, work)
    assert bool(on_disk) == (not in_memory)
    assert not files_in(work) and not files_in(other)


def test_clip_is_shown_before_and_after(app, upload, clip):
    path = upload(clip, "me & you.mp4")
    opened, said = app.show_clip_upload(path)
    assert "me & you.mp4 is open" in said and not Path(path).parent.exists()
    said, shown = app.run_clip(opened, "fast")
    assert "Done" in said and shown.count("<video") == 2 and "2 frames contain a cover" in shown
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
