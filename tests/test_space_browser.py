"""The page of the Space as a visitor has it: a headless Chromium against the real server.

Run with `pytest -m browser`; needs Chromium and Playwright.
"""

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from skimage import data

from nullface_pipeline.publish.hub import write_repository
from nullface_pipeline.publish.space import space_files
from nullface_pipeline.runs.lock import LOCK_NAME

from .video.clips import read_back, write_clip


playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
pytest.importorskip("gradio")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A camera that shows a test picture, without a face.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
APP = Path(__file__).parents[1] / "space" / "app.py"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of a server, and the folder that must hold all its temporary files."""
    temporary = tmp_path_factory.mktemp("temporary")
    with serve(sys.executable, APP, temporary) as address:
        yield address, temporary


@contextlib.contextmanager
def serve(python: str, app: Path, temporary: Path, **variables: str) -> Iterator[str]:
    """Address of the page that this interpreter runs from this file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"TMPDIR": str(temporary), "GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1", **variables}
    process = subprocess.Popen([python, str(app)], env=os.environ | own)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(address), 120)
        yield address
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert not list(temporary.glob("nullface-space-*")), "the folder of the uploads goes with the server"
    finally:
        process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(server: tuple[str, Path], browser: Any) -> Iterator[Any]:
    """The page, once it shows its example; nothing may be fetched from anywhere else."""
    address, temporary = server
    with visit(browser, address) as page:
        yield page
    wait_for(lambda: not pictures_in(temporary), 10)


@contextlib.contextmanager
def visit(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    elsewhere = []
    page.on("request", lambda request: elsewhere.append(request.url) if is_elsewhere(request.url, address) else None)
    page.goto(address)
    page.wait_for_selector("#preview img", timeout=60_000)
    yield page
    context.close()
    assert not elsewhere


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address).status == 200
    except OSError:
        return False


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


def is_elsewhere(url: str, address: str) -> bool:
    return url.startswith("http") and not url.startswith(address)


def pictures_in(folder: Path) -> list[Path]:
    """Files that may hold a picture or a part of one: all but a lock, and what ONNX Runtime writes
    when it starts.
    """
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in (".ses", LOCK_NAME)]


def encoded(image: PIL.Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def choose(page: Any, content: bytes, name: str = "photo.jpg", mime_type: str = "image/jpeg") -> None:
    page.get_by_role("button", name="Choose another photo").click()
    page.locator("input[type=file]").set_input_files([{"name": name, "mimeType": mime_type, "buffer": content}])


def status(page: Any) -> str:
    return page.locator("#status").inner_text()


def anonymize(page: Any) -> None:
    page.get_by_role("button", name="Anonymize", exact=True).click()
    page.wait_for_selector("#result .compare", timeout=120_000)


def test_upload_keep_the_eyes_compare_and_download(page, server):
    exif = PIL.Image.Exif()
    exif[0x010E] = "at home"
    choose(page, encoded(PIL.Image.fromarray(data.astronaut()), "PNG", exif=exif), "astronaut.png", "image/png")
    page.wait_for_function("document.querySelector('#status').innerText == '1 face was found.'")
    assert page.get_by_role("checkbox", name="Face 1").is_checked()
    assert not pictures_in(server[1]), "the upload is deleted before anything is done with it"

    before_keeping = page.locator("#preview img").get_attribute("src")
    page.get_by_role("checkbox", name="eyes").check()
    page.wait_for_function("src => document.querySelector('#preview img').src != src", arg=before_keeping)
    anonymize(page)
    assert status(page).startswith("Done")
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    assert re.search(r"replaced\. It does not match the person \(similarity -?0\.\d\d, threshold 0\.39\)",
                     page.locator("#result .faces").inner_text())  # fmt: skip

    before, after = (page.locator(f".compare .{name} img").bounding_box() for name in ("before", "after"))
    assert before["x"] + before["width"] < after["x"] and before["y"] == after["y"], "side by side"
    assert not page.get_by_role("slider", name="Show before").is_visible()

    with page.expect_download() as started:
        page.get_by_role("link", name="Download the photo").click()
    assert started.value.suggested_filename == "astronaut-anonymized.png"
    file = Path(started.value.path()).read_bytes()
    assert b"at home" not in file and not PIL.Image.open(io.BytesIO(file)).getexif()
    after = np.asarray(PIL.Image.open(io.BytesIO(file)).convert("RGB")).astype(int)
    changed = np.abs(after - data.astronaut()).max(axis=-1)
    left_eye, nose = (slice(99, 103), slice(200, 204)), (slice(118, 134), slice(220, 236))
    assert changed[left_eye].max() == 0 and changed[nose].mean() > 5 and changed[300:].max() == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(PIL.Image.new("RGB", (300, 300), "white"), "JPEG"), "No face was found"),
        (encoded(PIL.Image.new("L", (10_000, 6_000)), "JPEG"), "more than 25,000,000 pixels"),
        (b"This is a text.", "not a JPEG, PNG, WebP, TIFF, BMP or HEIC photo"),
    ],
    ids=["no face", "60 megapixels", "text"],
)
def test_refused_in_plain_words(page, content, message):
    choose(page, content)
    page.wait_for_function("text => document.querySelector('#status').innerText.includes(text)", arg=message)
    assert page.locator("img.photo").count() == 0
    assert not page.get_by_role("button", name="Anonymize", exact=True).is_visible()
    assert "Traceback" not in page.locator("body").inner_text()


def test_too_large_a_file_is_refused(page):
    choose(page, bytes(31 * 2**20))
    page.get_by_text(re.compile("exceed", re.IGNORECASE)).first.wait_for()
    assert page.locator("img.photo").count() == 0


def test_camera(page, server):
    page.context.grant_permissions(["camera"])
    page.get_by_role("button", name="Choose another photo").click()
    page.get_by_role("button", name="Capture from camera").click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
    assert "No photo is open" in status(page)
    page.get_by_role("button", name="capture photo").click()
    page.wait_for_function("document.querySelector('#status').innerText.includes('No face was found')")
    assert not pictures_in(server[1])


def test_painted_region_stays(page):
    page.get_by_role("button", name="Paint a region to keep").click()
    canvas = page.locator(".brush canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    before_painting = page.locator("#preview img").get_attribute("src")
    x, y = (box["x"] + 240 / 512 * box["width"], box["y"] + 148 / 512 * box["height"])
    page.mouse.move(x - 8, y)
    page.mouse.down()
    page.mouse.move(x + 8, y, steps=4)
    page.mouse.up()
    page.wait_for_function("src => document.querySelector('#preview img').src != src", arg=before_painting)
    anonymize(page)
    with page.expect_download() as started:
        page.get_by_role("link", name="Download the photo").click()
    after = np.asarray(PIL.Image.open(started.value.path()).convert("RGB")).astype(int)
    changed = np.abs(after - data.astronaut()).max(axis=-1)
    assert changed[144:152, 234:246].max() <= 1 and changed[60:176, 178:272].max() > 20

    painted = page.locator("#preview img").get_attribute("src")
    page.get_by_role("button", name="Remove the painted region").click()
    page.wait_for_function("src => document.querySelector('#preview img').src != src", arg=painted)
    assert page.locator("#preview img").get_attribute("src") == before_painting


def test_a_clip_is_shown_and_downloaded_and_leaves_no_file(page, server, tmp_path):
    small = np.ascontiguousarray(data.astronaut()[:240, 100:340])
    clip = write_clip(tmp_path / "clip.mp4", [small, small], [0, 40])
    page.get_by_role("button", name="A clip of at most 30 seconds instead").click()
    page.locator("input[type=file]").last.set_input_files(clip)
    page.get_by_text("clip.mp4 is open").wait_for()
    page.get_by_role("button", name="Anonymize the clip").click()
    page.wait_for_selector("#clip-result video", timeout=120_000)
    before, after = (page.locator("#clip-result video").nth(number).bounding_box() for number in range(2))
    assert before["x"] + before["width"] < after["x"] and before["y"] == after["y"], "side by side"
    for number in range(2):
        page.wait_for_function(f"document.querySelectorAll('#clip-result video')[{number}].videoWidth == 240")
    with page.expect_download() as started:
        page.get_by_role("link", name="Download the clip").click()
    frames, _ = read_back(Path(started.value.path()))
    before, _ = read_back(clip)
    assert np.abs(frames.astype(int) - before)[:, 80:160, 80:150].mean() > 5
    assert not pictures_in(server[1])


def test_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    for name in ("Paint a region to keep", "Advanced"):
        page.get_by_role("button", name=name).click()
    anonymize(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    before, after = (page.locator(f".compare .{name} img").bounding_box() for name in ("before", "after"))
    assert before == after, "one over the other"
    slider = page.get_by_role("slider", name="Show before")
    slider.focus()
    slider.press("End")
    assert page.locator(".compare").get_attribute("style") == "--at: 100%;"
    # Nothing in it scrolls sideways either.
    assert page.locator("#result .pair img").first.bounding_box()["width"] <= 390


def test_every_control_has_a_name(page):
    for name in ("Paint a region to keep", "Advanced"):
        page.get_by_role("button", name=name).click()
    page.get_by_role("slider", name="range slider for Mask start").wait_for()
    anonymize(page)
    outline = page.locator("body").aria_snapshot()
    page.get_by_role("button", name="Choose another photo").click()
    page.get_by_role("button", name="Capture from camera").wait_for()
    outline += "\n" + page.locator("body").aria_snapshot()
    controls = re.findall(
        r"^\s*- (button|checkbox|radio|slider|spinbutton|link|textbox|group|img)\b(.*)$", outline, re.M
    )
    assert len(controls) > 30
    # Icons inside a named button need no name of their own.
    assert not [(role, rest) for role, rest in controls if role != "img" and not rest.startswith(' "')]


def test_an_exported_space_runs_from_its_folder_alone(browser, tmp_path):
    """In an environment that has what requirements.txt names, taken from this one, and not the
    package itself.
    """
    write_repository(space_files(), tmp_path / "space")
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    (site,) = environment.glob("lib/python*/site-packages")
    # What a .pth file adds is not searched for .pth files, by which a clone would be installed.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    python = environment / "bin" / "python"
    clean = {"PYTHONPATH": "", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    find = "import importlib.util as u; print(u.find_spec('nullface_pipeline'))"
    found = subprocess.run([python, "-c", find], cwd=tmp_path, env=os.environ | clean, capture_output=True, text=True)
    assert found.stdout == "None\n", found.stderr
    (tmp_path / "temporary").mkdir()
    app = tmp_path / "space" / "app.py"
    with serve(python, app, tmp_path / "temporary", **clean) as address, visit(browser, address) as page:
        assert "nullface-tiny" in page.locator("body").inner_text()
        choose(page, encoded(PIL.Image.fromarray(data.astronaut()), "JPEG"))
        page.wait_for_function("document.querySelector('#status').innerText == '1 face was found.'")
        anonymize(page)
        assert status(page).startswith("Done")
        with page.expect_download() as started:
            page.get_by_role("link", name="Download the photo").click()
        after = np.asarray(PIL.Image.open(started.value.path())).astype(int)
    assert np.abs(after - data.astronaut())[90:150, 200:250].mean() > 5
