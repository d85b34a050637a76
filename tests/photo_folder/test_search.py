"""Which photos are found, where each goes, and that no file that is read or written lies where
another one is.
"""

import os
import subprocess
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nullface_pipeline.photo_folder import find_photos, search_photos
from nullface_pipeline.photo_folder.planned_files import plan_written, planned_pages
from nullface_pipeline.runs.jobs import PhotoJob
from nullface_pipeline.runs.paths import check_written, fold


@pytest.fixture
def bind(tmp_path: Path) -> Iterator[Callable[[Path, str], Path]]:
    """Show a folder in a second place as well, where the machine lets tests do so."""
    mounted = []

    def mount(folder: Path, name: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        done = subprocess.run(["mount", "--bind", folder, place], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("needs the right to mount")
        mounted.append(place)
        return place

    try:
        yield mount
    finally:
        for place in mounted:
            subprocess.run(["umount", place], check=True)


def test_jobs(photos, tmp_path):
    output = tmp_path / "out"
    one = photos / "a.jpg"
    assert find_photos([one], output) == [PhotoJob(one, output / "a.jpg")]
    assert find_photos([one, one], output) == find_photos([one], output)
    assert find_photos([str(photos / "*.j*g"), photos / "notes.txt"], output) == [
        PhotoJob(photos / name, output / name) for name in ("a.jpg", "broken.jpg", "notes.txt")
    ]
    for pattern in ("**/*", "**"):
        assert len(find_photos([f"{photos}/{pattern}"], output)) == 5, "only photos of what a pattern matches"
    assert [job.source.name for job in find_photos([f"{photos}/**/c/*"], output)] == ["empty.webp"]
    assert len(find_photos([f"{photos}/*/*"], output)) == 2
    for wrong, named in ((f"{photos}/*.gif", "gif"), (photos / "z.jpg", "z.jpg"), ("", "empty")):
        with pytest.raises(ValueError, match=named):
            find_photos([wrong], output)
    other = tmp_path / "other" / "a.jpg"
    other.parent.mkdir()
    other.write_bytes(one.read_bytes())
    with pytest.raises(ValueError, match=str(other)):
        find_photos([one, other], output)


def test_patterns_leave_hidden_files_out_as_a_shell_does(photos, tmp_path):
    (photos / ".hidden").mkdir()
    for name in (".hidden/x.jpg", ".y.jpg"):
        (photos / name).write_bytes(b"")
    assert len(find_photos([f"{photos}/**/*.*"], tmp_path / "out")) == 5
    assert len(find_photos([f"{photos}/.*.jpg"], tmp_path / "out")) == 1
    assert len(find_photos([photos], tmp_path / "out")) == 7


@pytest.mark.parametrize("way", ["itself", "below", "link", "link to below", "mount", "mount of below", "link in it"])
def test_results_never_lie_among_what_is_read(photos, tmp_path, bind, way):
    output = {
        "itself": lambda: photos,
        "below": lambda: photos / "new" / "out",
        "link": lambda: link(tmp_path / "link", photos),
        "link to below": lambda: link(tmp_path / "link", photos / "b") / "new",
        "mount": lambda: bind(photos, "mount"),
        "mount of below": lambda: bind(photos / "b" / "c", "mount") / "new",
        "link in it": lambda: link(tmp_path / "out" / "b", photos / "b" / "c").parent,
    }[way]()
    with pytest.raises(ValueError, match=str(output)):
        find_photos([photos], output)


def test_patterns_may_stand_beside_their_output(photos):
    assert len(find_photos([f"{photos}/*.jpg"], photos / "out")) == 2
    for pattern, output in ((f"{photos}/**/*.jpg", photos / "out"), (f"{photos}/b/*", photos / "b")):
        with pytest.raises(ValueError, match=str(output)):
            find_photos([pattern], output)


def link(path: Path, target: Path | str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("way", ["itself", "hard link", "symbolic link", "hard link of another", "mount"])
def test_no_result_is_written_over_a_photo(photos, tmp_path, bind, way):
    one, output = photos / "a.jpg", tmp_path / "out"
    output.mkdir()
    if way == "itself":
        output = photos
    elif way == "mount":
        output = bind(photos, "mount")
    elif way == "symbolic link":
        (output / "a.jpg").symlink_to(one)
    else:
        os.link(one if way == "hard link" else photos / "b" / "d.JPG", output / "a.jpg")
    for named in ([one, photos / "b" / "d.JPG"], [str(photos / "*.jpg"), photos / "b" / "d.JPG"]):
        with pytest.raises(ValueError, match=str(output)):
            find_photos(named, output)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("caf\u00e9.jpg", unicodedata.normalize("NFD", "caf\u00e9.jpg")),
        ("IMG.jpg", "img.JPG"),
        ("stra\u00dfe.jpg", "STRASSE.jpg"),
    ],
)
def test_names_that_some_file_systems_take_for_one(tmp_path, first, second):
    assert fold(first) == fold(second)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in (first, second):
        (folder / name).write_bytes(name.encode())
    if len(list(folder.iterdir())) < 2:
        pytest.skip("this is such a file system")
    with pytest.raises(ValueError, match=str(tmp_path / "out")):
        find_photos([folder], tmp_path / "out")


def test_folders_that_differ_by_case_only(tmp_path):
    for name in ("A", "a"):
        (tmp_path / name / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / name / "x.jpg").write_bytes(b"")
    if (tmp_path / "A").samefile(tmp_path / "a"):
        pytest.skip("such a file system")
    with pytest.raises(ValueError, match=str(tmp_path / "out")):
        find_photos([tmp_path / "A", tmp_path / "a"], tmp_path / "out")


def test_linked_folders_are_named_and_not_followed(photos, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    (private / "secret.jpg").write_bytes((photos / "a.jpg").read_bytes())
    for target in (private, photos):
        (photos / f"to_{target.name}").symlink_to(target)
    for named in (photos, f"{photos}/**/*", f"{photos}/*/*"):
        found = search_photos([named], tmp_path / "out")
        assert not [job for job in found.jobs if job.source.name == "secret.jpg"], named
        assert found.unsearched == [photos / "to_photos", photos / "to_private"]
    assert len(find_photos([photos / "to_private"], tmp_path / "out")) == 1, "unless they are named"


def test_what_cannot_be_read_is_not_left_out(photos, tmp_path):
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(photos / "pipe.png")
    names = {job.source.name for job in find_photos([photos], tmp_path / "out")}
    assert {"gone.jpg", "pipe.png"} <= names


@pytest.fixture
def jobs(photos: Path, tmp_path: Path) -> list[PhotoJob]:
    return find_photos([photos], tmp_path / "out")


def check(jobs: list[PhotoJob], tmp_path: Path, **files: Any) -> None:
    written = plan_written(jobs, tmp_path / "out", tmp_path / "record.jsonl", **files)
    check_written(written, [job.source for job in jobs])


@pytest.mark.parametrize("option", ["report", "contact_sheet"])
@pytest.mark.parametrize(
    "target", ["photos/a.jpg", "out/a.jpg", "out/A.JPG", "out/b/hard.png", "record.jsonl", "out/.nullface.lock"]
)
def test_report_and_sheet_are_files_of_their_own(jobs, tmp_path, option, target):
    with pytest.raises(ValueError, match=target):
        check(jobs, tmp_path, **{option: tmp_path / target})


@pytest.mark.parametrize("make", [os.link, os.symlink])
@pytest.mark.parametrize("option", ["report", "contact_sheet"])
def test_links_to_photos_are_the_photos(jobs, photos, tmp_path, make, option):
    make(photos / "a.jpg", tmp_path / "other.png")
    with pytest.raises(ValueError, match="original"):
        check(jobs, tmp_path, **{option: tmp_path / "other.png"})


def test_links_to_what_is_still_to_be_written(jobs, tmp_path):
    (tmp_path / "report.jsonl").symlink_to(tmp_path / "out" / "a.jpg")
    with pytest.raises(ValueError, match="result"):
        check(jobs, tmp_path, report=tmp_path / "report.jsonl")
    (tmp_path / "sheet.png").symlink_to(tmp_path / "same.jsonl")
    with pytest.raises(ValueError, match="report"):
        check(jobs, tmp_path, report=tmp_path / "same.jsonl", contact_sheet=tmp_path / "sheet.png")


def test_numbered_pages_are_compared_too(photos, tmp_path):
    photo = photos / "sheet-2.jpg"
    photo.write_bytes((photos / "a.jpg").read_bytes())
    many = [PhotoJob(photos / f"{number}.jpg", tmp_path / "out" / f"{number}.jpg") for number in range(36)]
    many.append(PhotoJob(photo, tmp_path / "out" / "sheet-2.jpg"))
    for sheet in (photos / "sheet.jpg", photos / "SHEET.JPG", tmp_path / "out" / "sheet.jpg"):
        with pytest.raises(ValueError, match="(?i)page"):
            check(many, tmp_path, contact_sheet=sheet)
    assert [file.path.name for file in planned_pages(Path("s.png"), 36)] == ["s.png"]
    assert [file.path.name for file in planned_pages(Path("s.png"), 37)] == ["s-1.png", "s-2.png", "s.png"]


def test_previews_are_compared_too(photos, tmp_path):
    taken = photos / "x.png"
    job = PhotoJob(photos / "a.jpg", tmp_path / "out" / "a.jpg")
    (tmp_path / "out").mkdir()
    os.link(photos / "a.jpg", tmp_path / "out" / "a.jpg.preview.png")
    with pytest.raises(ValueError, match="preview"):
        check([job], tmp_path, dry_run=True)
    assert not taken.exists()


def test_what_is_in_the_way_is_said_first(jobs, tmp_path):
    (tmp_path / "file").write_text("")
    for path, named in ((tmp_path, tmp_path), (tmp_path / "file" / "r.jsonl", tmp_path / "file")):
        with pytest.raises(ValueError, match=f"^{named} "):
            check(jobs, tmp_path, report=path)


def test_other_files_of_a_folder_are_counted_by_suffix(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.jpg", "b.GIF", "more/c.gif", "more/d.mp4", "notes", ".hidden.gif"):
        (folder / name).write_bytes(b"")
    found = search_photos([folder], tmp_path / "out")
    assert found.skipped == {".gif": 2, ".mp4": 1, "": 1}
    assert search_photos([folder / "a.jpg"], tmp_path / "out").skipped == {}
