"""The pages are true: blocks of code run as they stand, lines of shell are ones that exist, links
lead somewhere.

Where a block names the real weights, nullface-tiny stands in for them, in the places and file
formats of the real ones; where it names CUDA, it runs on the CPU in float32. A comment `<!-- not
run: why -->` above a block leaves it out.
"""

import ast
import functools
import importlib.util
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import typer.main
from skimage import data
from typer.testing import CliRunner

import nullface_pipeline
from nullface_pipeline import weights
from nullface_pipeline.cli import app
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.photo_files import MAX_PIXELS, SUFFIXES
from nullface_pipeline.photo_records import FaceRecord
from nullface_pipeline.publish.hub import CLONE, PACKAGE
from nullface_pipeline.runs.jobs import PhotoJob
from nullface_pipeline.runs.report import PhotoOutcome
from nullface_pipeline.weights import FACE_WEIGHTS, WEIGHT_SETS

from .cli.test_help import LAYOUT
from .local_hub import fill_cache
from .test_model_card import FACEID, SD15, bisenet, faceid, home  # noqa: F401
from .video.clips import write_clip


DOCS = CLONE / "docs"
# The other two files of docs/community are parts of a page of diffusers.
PAGES = {
    path.relative_to(CLONE).as_posix(): path
    for path in [CLONE / "README.md", *sorted(DOCS.rglob("*.md"))]
    if path.parent.name != "community" or path.name == "README.md"
}
BLOCK = re.compile(r"(?:^<!-- not run: ([^\n]+) -->\n+)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    code: str
    left_out: bool

    @property
    def needs_weights(self) -> bool:
        return "stable-diffusion-v1-5" in self.code or "sd15" in self.code


BLOCKS = [
    Block(page, language, code, left_out=bool(why))
    for page, path in PAGES.items()
    for why, language, code in BLOCK.findall(path.read_text())
]


def python_pages(needs_weights: bool) -> dict[str, str]:
    """The Python of each page as one program, of the pages that need the real weights or of the
    others.
    """
    pages: dict[str, list[Block]] = {}
    for block in BLOCKS:
        if block.language == "python" and not block.left_out:
            pages.setdefault(block.page, []).append(block)
    return {
        page: "\n".join(block.code for block in blocks)
        for page, blocks in pages.items()
        if any(block.needs_weights for block in blocks) == needs_weights
    }


def shell_lines() -> list[tuple[str, str]]:
    """Page and line, each line once, where it first appears."""
    pages: dict[str, str] = {}
    for block in BLOCKS:
        if block.language == "sh" and not block.left_out:
            for line in filter(None, block.code.splitlines()):
                pages.setdefault(line, block.page)
    return [(page, line) for line, page in pages.items()]


def nullface_lines(needs_weights: bool) -> list[list[str]]:
    """Arguments of the lines that call `nullface`."""
    found = [shlex.split(line) for _, line in shell_lines() if line.startswith("nullface ")]
    return [words[1:] for words in found if ("sd15" in words) == needs_weights and "<" not in words]


def write_photos(folder: Path) -> None:
    """The photos that the pages speak of; all show the astronaut."""
    photo = PIL.Image.fromarray(data.astronaut())
    names = ("demo/input.png", "holiday/family.jpg", "scans/1969/crew.png", "portrait.jpg", "patient.png")
    for name in (*names, "faces/1.jpg", "faces/2.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(folder / name)
    mask = PIL.Image.new("L", photo.size)
    mask.paste(255, (195, 122, 211, 136))
    mask.save(folder / "mask.png")
    # Two frames make no track, and so take no time.
    small = np.ascontiguousarray(data.astronaut()[:300, 60:360])
    write_clip(folder / "clip.mp4", [small, small[:, ::-1]], [0, 40])


def test_blocks_are_of_known_kinds():
    assert {block.language for block in BLOCKS} <= {"python", "sh", "json", "text", "bibtex"}
    assert len(python_pages(needs_weights=True)) >= 3 and len(python_pages(needs_weights=False)) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("page", python_pages(needs_weights=False))
def test_python(page, tmp_path, monkeypatch):
    write_photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(python_pages(needs_weights=False)[page], page, "exec"), names)
    if page == "docs/how-to/medical.md":
        before, after, mask = (np.asarray(names[name]) for name in ("photo", "photo", "mask"))
        after = np.asarray(PIL.Image.open("patient-anonymized.png"))
        assert (after != before).any(), "the face is another"
        assert np.array_equal(after[126:132, 199:207], before[126:132, 199:207]), "the lesion is not"
        assert mask[126:132, 199:207].all()


RUN_ALL = """
import sys
import torch
torch.set_num_threads(1)
pages, lines = {pages!r}, {lines!r}
for page, code in pages.items():
    print(page, flush=True)
    exec(compile(code, page, "exec"), {{}})
from nullface_pipeline.cli import app
for line in lines:
    assert app(line, standalone_mode=False) in (0, 2), line
"""


@pytest.mark.slow
def test_what_names_the_real_weights(home, faceid):  # noqa: F811
    write_photos(home)
    (home / "path" / "to").mkdir(parents=True)
    (home / "path" / "to" / "nullface_pipeline").symlink_to(PACKAGE)
    fill_cache(home, "models", SD15, PACKAGE / "tiny" / "model", weights.SD15.revision)
    fill_cache(home, "models", FACEID, faceid, weights.FACEID_SD15.revision)
    pages = {
        page: code.replace('"cuda"', '"cpu"').replace("float16", "float32")
        for page, code in python_pages(needs_weights=True).items()
    }
    lines = nullface_lines(needs_weights=True)
    assert lines
    folders = {"HOME": str(home), "HF_HOME": str(home / "hf"), "TORCH_HOME": str(home / "torch")}
    run = subprocess.run(
        [sys.executable, "-c", RUN_ALL.format(pages=pages, lines=lines)],
        cwd=home,
        env={**os.environ, **folders, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    before, after = (np.asarray(PIL.Image.open(home / name)) for name in ("family.jpg", "family-anonymized.png"))
    assert (before[60:180, 170:280] != after[60:180, 170:280]).any()


PROGRAMS = python_pages(needs_weights=False) | python_pages(needs_weights=True)


@pytest.mark.parametrize("page", PROGRAMS)
def test_python_imports_what_exists(page):
    """The slow tests run these programs."""
    tree = ast.parse(PROGRAMS[page])
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}:{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            pkgutil.resolve_name(name)


@pytest.mark.parametrize("words", nullface_lines(False) + nullface_lines(True), ids=" ".join)
def test_options_in_lines_of_the_command_exist(words):
    command = typer.main.get_command(app)
    while subcommands := getattr(command, "commands", {}):
        # `nullface dataset FOLDER` is `nullface dataset run FOLDER`.
        name, words = (words[0], words[1:]) if words[0] in subcommands else ("run", words)
        command = subcommands[name]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    options = {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)}
    assert options <= {*known, "--help"}


@pytest.mark.slow
def test_lines_of_the_command(tmp_path, monkeypatch):
    """One after the other in one folder, as a reader who tries them all."""
    write_photos(tmp_path)
    # `nullface demo` writes it, and does not replace other files.
    (tmp_path / "demo" / "input.png").unlink()
    monkeypatch.chdir(tmp_path)
    lines = nullface_lines(needs_weights=False)
    assert len(lines) > 5
    for words in lines:
        # As `main` calls it: the library's own code for wrong usage is 2 as well.
        result = CliRunner().invoke(app, words, standalone_mode=False)
        assert result.exception is None and result.return_value in (None, 0, ExitCode.covered), (
            f"{words}\n{result.output}"
        )
    written = {path.as_posix() for path in Path().rglob("*") if path.is_file()}
    assert {
        "checked/family.jpg.preview.png",
        "demo/side_by_side.png",
        "anonymized/portrait.jpg",
        "sheet.png",
    } <= written


@functools.cache
def help_text(*command: str) -> str:
    return subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout


def long_options(words: list[str]) -> Iterator[str]:
    return (word.partition("=")[0] for word in words if word.startswith("--"))


def check_python(words: list[str], marks: set[str]) -> None:
    """A module or a script that is there and knows the options; after `pytest -m`, a mark that is
    there.
    """
    if words[:2] == ["-m", "pytest"]:
        assert words[2] == "-m" and words[3] in marks
        return
    name = words[1] if words[0] == "-m" else words[0]
    path = CLONE / (name.replace(".", "/") + ".py" if words[0] == "-m" else name)
    if name == "venv":
        return
    source = path.read_text()
    for option in long_options(words):
        # Shared options of the training are named without dashes.
        shared = option[2:].replace("-", "_")
        assert re.search(rf'"{option}"|"{shared}"|\b{shared}=', source), (option, words)


def check_line(line: str, project: dict[str, Any]) -> None:
    words = shlex.split(line, comments=True)
    program = words[0]
    if program == "pytest":
        words, program = ["python", "-m", *words], "python"
    if program == "make":
        assert re.search(rf"^{words[1]}:", (CLONE / "Makefile").read_text(), flags=re.MULTILINE)
    elif program in ("python", "python3"):
        marks = {mark.partition(":")[0] for mark in project["tool"]["pytest"]["ini_options"]["markers"]}
        check_python(words[1:], marks)
    elif program == "pip":
        known = help_text(sys.executable, "-m", "pip", words[1])
        assert all(option in known for option in long_options(words)), line
        assert set(re.findall(r"\[(\w+)\]", line)) <= set(project["project"]["optional-dependencies"])
        assert "--constraint" not in words or (CLONE / words[words.index("--constraint") + 1]).is_file()
    elif program == "hf":
        hf = str(Path(sys.executable).with_name("hf"))
        assert help_text(hf, *[word for word in words[1:] if re.fullmatch("[a-z]+", word)])
    else:
        assert program in ("cd", "source", "export", "mkdocs") or shutil.which(program), line


def test_other_lines_of_shell():
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())
    others = [(page, line) for page, line in shell_lines() if not line.startswith("nullface ")]
    assert len(others) > 10
    for _, line in others:
        check_line(line, project)


def test_commands_named_in_tables():
    """`nullface ...`, `python ...` and `make ...` in the running text of the pages."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for page, path in PAGES.items():
        text = BLOCK.sub("", path.read_text())
        for span in re.findall(r"`nullface (\w+)([^`]*)`", text):
            known = {option for parameter in commands[span[0]].params for option in parameter.opts}
            assert set(long_options(span[1].split())) <= known, (page, span)
        for target in re.findall(r"`make (\w+)`", text):
            check_line(f"make {target}", {})


def test_every_option_of_a_video_is_on_its_page():
    named = set(re.findall(r"`(--[a-z-]+)", PAGES["docs/how-to/video.md"].read_text()))
    command = typer.main.get_command(app).commands["video"]  # type: ignore[attr-defined]
    known = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
    assert known - named <= {"--help"}


def test_page_on_files():
    text = PAGES["docs/reference/files.md"].read_text()
    listed = re.search(r"`(\.bmp [^`]*)`", text)
    assert listed and set(listed[1].split()) == SUFFIXES
    assert f"{MAX_PIXELS:,} pixels" in text


def test_page_on_the_report():
    text = PAGES["docs/reference/report.md"].read_text()
    shown = json.loads(next(block.code for block in BLOCKS if block.language == "json"))
    face = FaceRecord((0.0, 0.0, 1.0, 1.0), 1.0, None, 0, "covered")
    record = json.loads(PhotoOutcome(PhotoJob(Path("a"), Path("b")), "covered", faces=(face,)).as_json("random"))
    assert list(shown) == list(record) and list(shown["faces"][0]) == list(record["faces"][0])
    assert re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE) == [*record, *record["faces"][0]]


def test_page_on_exit_codes():
    rows = re.findall(r"^\| (\d+) \|", PAGES["docs/reference/exit-codes.md"].read_text(), flags=re.MULTILINE)
    assert [int(code) for code in rows] == sorted(ExitCode)


def test_hashes_and_sizes_on_the_page_on_offline_use():
    text = PAGES["docs/how-to/offline.md"].read_text()
    assert all(weights.sha256 in text for weights in FACE_WEIGHTS)
    for name, parts in WEIGHT_SETS.items():
        size = sum(weights.size for weights in parts) / 1e9
        assert re.search(rf"^\| `nullface fetch {name}` \| .+ \| {size:.1f} GB \|$", text, flags=re.MULTILINE), name


@pytest.mark.skipif(not LAYOUT, reason="needs Typer 0.29 and Rich 14.3")
def test_generated_pages_are_up_to_date():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    assert spec and spec.loader
    make_reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_reference)
    pages = {"settings.md": make_reference.settings_page(), "command-line.md": make_reference.commands_page()}
    for name, text in pages.items():
        assert (DOCS / "reference" / name).read_text() == text, "run `python docs/make_reference.py`"


def test_python_reference_names_what_exists_and_all_public_names():
    paths = re.findall(r"^::: (\S+)$", PAGES["docs/reference/python.md"].read_text(), flags=re.MULTILINE)
    assert all(pkgutil.resolve_name(path).__doc__ for path in paths)
    assert set(nullface_pipeline.__all__) - {"__version__"} <= {path.rpartition(".")[2] for path in paths}


def links(text: str) -> list[str]:
    return [
        link for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text)) if not re.match(r"https?:|mailto:", link)
    ]


def anchors(text: str) -> set[str]:
    """The fragments that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Written from the code.
GENERATED = {"docs/reference/command-line.md", "docs/reference/settings.md"}


@pytest.mark.parametrize("page", sorted(PAGES.keys() - GENERATED))
def test_pages_are_short(page):
    text = PAGES[page].read_text()
    assert text.count("\n") <= (130 if page == "README.md" else 150)
    # Tables, pictures and code cannot be wrapped.
    prose = re.sub(r"^(\||!\[|<!--).*$", "", BLOCK.sub("", text), flags=re.MULTILINE)
    assert [line for line in prose.splitlines() if len(line) > 100] == []


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    path = CLONE / page
    for link in links(path.read_text()):
        target, _, fragment = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists() and file.is_relative_to(CLONE), link
        if fragment:
            assert fragment in anchors(file.read_text()), link


def test_pictures_are_small_used_and_made_by_the_script():
    files = {path.name: path.stat().st_size for path in (DOCS / "images").iterdir() if "space-" not in path.name}
    used = {Path(link).name for path in PAGES.values() for link in links(path.read_text()) if "images/" in link}
    assert set(files) <= used
    made = re.findall(r'save\(\w+\(.*\), "(.+)"\)', (DOCS / "make_pictures.py").read_text())
    assert set(files) == {*made, "video.webp"} and '"video.webp"' in (DOCS / "make_video.py").read_text()
    assert max(files.values()) < 300_000 and sum(files.values()) < 2_000_000
