"""The exported Space. What a browser makes of it is in tests/test_space_browser.py."""

import re
import tomllib

from packaging.requirements import Requirement

from nullface_pipeline.publish import hub
from nullface_pipeline.publish.hub import CLONE, PACKAGE, push_repository
from nullface_pipeline.publish.space import space_files

from ..local_hub import LocalHub


def requirements(files: dict[str, bytes]) -> list[Requirement]:
    return [Requirement(line) for line in files["requirements.txt"].decode().splitlines()]


def test_carries_the_package_and_names_what_it_needs():
    files = space_files()
    assert {"app.py", "README.md", "LICENSE", "nullface_pipeline/tiny/model/model_index.json"} <= set(files)
    package = {path.relative_to(CLONE).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    assert {name for name in package if not name.endswith(".pyc")} <= set(files), "a suffix is missing in SUFFIXES"
    assert not [name for name in files if name.endswith((".pyc", ".pyi"))]
    assert {"gradio", "torch", "insightface", "av"} <= {requirement.name for requirement in requirements(files)}
    assert all(
        requirement.url is None and requirement.name != "nullface-pipeline" for requirement in requirements(files)
    )


def test_a_photo_that_lies_about_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "CLONE", tmp_path)
    (tmp_path / "space").mkdir()
    for name in ("app.py", "me.jpg", "me.PNG", "notes"):
        (tmp_path / "space" / name).touch()
    assert set(space_files("https://host/me/mine@v1")) == {"app.py", "LICENSE", "requirements.txt"}


def test_or_names_a_revision():
    files = space_files("https://host/me/mine@v0.2.0")
    (requirement,) = requirements(files)
    assert requirement.url == "git+https://host/me/mine@v0.2.0" and requirement.extras == {"space", "video"}
    assert not [name for name in files if name.startswith("nullface_pipeline/")]


def test_the_card_names_the_sdk_and_the_hardware():
    card = space_files()["README.md"].decode()
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    gradio = Requirement(project["optional-dependencies"]["space"][0])
    version = re.search(r"^sdk_version: (\S+)$", card, re.MULTILINE)
    assert version and gradio.specifier.contains(version[1])
    assert "\nsdk: gradio\n" in card and "\nsuggested_hardware: zero-a10g\n" in card and "\napp_file: app.py\n" in card


def test_uploads_as_a_space(monkeypatch):
    files = {"app.py": b"page"}
    with LocalHub({}) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        push_repository(files, "me/page", kind="space")
        assert server.uploads == files and server.created == [("me", "page", "space", "gradio")]
