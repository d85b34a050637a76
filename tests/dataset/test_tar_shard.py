"""WebDataset tars: the photos anonymized, named members copied, refused ones marked, everything
else gone.
"""

import base64
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from nullface_pipeline.dataset import tar_shard

from .samples import colour, make_job, make_tars, no_face, paint, painted, picture, results


def members(path: Path) -> tuple[dict[str, bytes], list[tarfile.TarInfo]]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}, tar.getmembers()


def test_photos_and_named_members(tmp_path, monkeypatch):
    source = make_tars(tmp_path / "in", 6, 6)
    (outcome,) = paint(make_job(source, tmp_path / "out", columns=("json",)), monkeypatch)
    found, infos = members(tmp_path / "out" / "00000.tar")
    assert outcome.photos == 6 and outcome.refused == 2
    photos = {name: data for name, data in found.items() if name.endswith(".png")}
    assert {name: painted(data) for name, data in photos.items()} == {name: colour(name) for name in photos}
    assert set(photos) == {f"a/row-{number}.png" for number in (0, 1, 3, 5)}
    assert found["a/row-2.png.refused"].startswith(b"It is not a JPEG") and "a/row-4.png.refused" in found
    assert [name for name in found if name.endswith(".json")] == [f"a/row-{number}.json" for number in range(6)]
    assert not [name for name in found if name.endswith(".txt")]
    assert {(info.uname, info.mtime) for info in infos} == {("", 0)}
    assert not [data for data in results(tmp_path / "out").values() if b"ohn" in data]


def test_webdataset_reads_it(tmp_path, monkeypatch):
    webdataset = pytest.importorskip("webdataset")
    source = make_tars(tmp_path / "in", 6, 6)
    paint(make_job(source, tmp_path / "out", columns=("json",)), monkeypatch)
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "00000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"a/row-{number}" for number in range(6)]
    assert sum("png" in sample for sample in samples) == 4 and all("json" in sample for sample in samples)


def test_tars_of_any_size_give_the_same(tmp_path, monkeypatch):
    for size in (7, 50):
        source = make_tars(tmp_path / f"in{size}", 50, size)
        paint(make_job(source, tmp_path / f"out{size}"), monkeypatch)
    first = {}
    for path in sorted((tmp_path / "out7").glob("*.tar")):
        first |= members(path)[0]
    assert first == members(tmp_path / "out50" / "00000.tar")[0] and len(first) == 50


@pytest.mark.parametrize("size", [300, 512, 1536, 2048 + 1536, 2048 + 100])
def test_a_tar_that_is_cut_off_fails(tmp_path, monkeypatch, size):
    path = make_tars(tmp_path / "in", 6, 6) / "00000.tar"
    path.write_bytes(path.read_bytes()[:size])
    (outcome,) = paint(make_job(tmp_path / "in", tmp_path / "out"), monkeypatch)
    assert outcome.failed and not results(tmp_path / "out"), outcome


def make_tar(path: Path, *members: tuple[Any, ...]) -> Path:
    """A tar of (name, data, fields of the TarInfo)."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data, fields in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(data))
    return path.parent


def failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *members: tuple[Any, ...], **settings: Any) -> Any:
    """Why a tar could not be done; nothing of it is in the output."""
    source = make_tar(tmp_path / "in" / "a.tar", *members)
    (outcome,) = paint(make_job(source, tmp_path / "out", **settings), monkeypatch)
    assert not results(tmp_path / "out")
    return outcome.failed


@pytest.mark.parametrize("name", ["../../etc/x.jpg", "/etc/x.jpg", "a/../x.jpg", "../x.txt"])
def test_member_names_that_lead_elsewhere(tmp_path, monkeypatch, name):
    assert name in failed(tmp_path, monkeypatch, (name, picture(1, "JPEG"), {}))


def test_a_member_name_may_begin_with_the_folder_itself(tmp_path, monkeypatch):
    source = make_tar(tmp_path / "in" / "a.tar", ("./a.png", picture(1), {}))
    (outcome,) = paint(make_job(source, tmp_path / "out"), monkeypatch)
    assert outcome.anonymized == 1 and set(members(tmp_path / "out" / "a.tar")[0]) == {"./a.png"}


def test_repeated_names(tmp_path, monkeypatch):
    twice = (("a.png", picture(1), {}), ("./a.png", picture(2), {}))
    assert "a.png" in failed(tmp_path, monkeypatch, *twice)
    assert "a.json" in failed(tmp_path, monkeypatch, *[("a.json", b"{}", {})] * 2, columns=("json",))


def sparse(path: Path) -> None:
    """A tar that a hole makes far larger than itself."""
    with path.with_suffix(".png").open("wb") as file:
        file.write(picture(1))
        file.truncate(2**20)
    command = ["tar", "--format=gnu", "-S", "-C", str(path.parent), "-cf", str(path), "a.png"]
    subprocess.run(command, check=True)
    path.with_suffix(".png").unlink()
    assert path.stat().st_size < 20_000


def test_links_sparse_and_huge_photos_are_refused_by_name(tmp_path, monkeypatch):
    source = make_tar(
        tmp_path / "in" / "b.tar",
        ("a.png", picture(1), {}),
        ("hard.png", b"", {"type": tarfile.LNKTYPE, "linkname": "a.png"}),
        ("soft.png", b"", {"type": tarfile.SYMTYPE, "linkname": "a.png"}),
        ("pipe.png", b"", {"type": tarfile.FIFOTYPE}),
        ("large.png", picture(2) + bytes(5000), {}),
        ("folder.png", b"", {"type": tarfile.DIRTYPE}),
    )
    sparse(source / "a.tar")
    monkeypatch.setattr(tar_shard, "MAX_PHOTO_BYTES", 4000)
    holes, others = paint(make_job(source, tmp_path / "out"), monkeypatch)
    assert (holes.photos, holes.refused, others.photos, others.refused) == (1, 1, 5, 4)
    assert set(members(tmp_path / "out" / "a.tar")[0]) == {"a.png.refused"}
    kept = {"a.png", *(f"{name}.png.refused" for name in ("hard", "soft", "pipe", "large"))}
    assert set(members(tmp_path / "out" / "b.tar")[0]) == kept


@pytest.mark.parametrize(
    ("data", "fields"), [(b"", {"type": tarfile.SYMTYPE, "linkname": "a.png"}), (b'"a"' + b" " * 100_000, {})]
)
def test_links_and_huge_members_are_not_kept(tmp_path, monkeypatch, data, fields):
    assert "a.json" in failed(tmp_path, monkeypatch, ("a.json", data, fields), columns=("json",))


def gif(number: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.open(io.BytesIO(picture(number))).save(file, "GIF")
    return file.getvalue()


def npy(number: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(PIL.Image.open(io.BytesIO(picture(number)))))
    return file.getvalue()


ENCODED = base64.b64encode(picture(1, "JPEG")).decode()


@pytest.mark.parametrize(
    ("kept", "data"),
    [
        ("gif", gif(1)),
        ("npy", npy(1)),
        ("orig", picture(1)),
        ("txt", ENCODED.encode()),
        ("txt", picture(1).hex().encode()),
        ("txt", base64.b85encode(picture(1, "JPEG"))),
        ("txt", b"a word " * 1000),
        ("json", json.dumps({"label": 1, "thumb": ENCODED}).encode()),
        ("json", f'{{"thumb": "{ENCODED}", "thumb": 1}}'.encode()),
        ("json", json.dumps({ENCODED: 1}).encode()),
        ("json", json.dumps([ENCODED[start : start + 30] for start in range(0, 600, 30)]).encode()),
        ("json", json.dumps({"pixels": [[0] * 9] * 9}).encode()),
        ("json", json.dumps({"number": int.from_bytes(picture(1)[:200])}).encode()),
        ("json", b"[" * 5000),
    ],
)
def test_kept_members_that_could_hold_a_picture(tmp_path, monkeypatch, kept, data):
    assert f"a.{kept}" in failed(
        tmp_path, monkeypatch, ("a.png", picture(1), {}), (f"a.{kept}", data, {}), columns=(kept,)
    )


def test_kept_members_of_plain_text(tmp_path, monkeypatch):
    texts = {
        "a.txt": "Zwei Kinder, Düsseldorf 1998\n\u4e00\u4e2a\u7ae5\u5b50".encode(),
        "a.cls": b"7\n",
        "a.url": b"https://example.org/photos/2014/COCO_train2014_000000123456.jpg?size=large",
        "a.json": json.dumps(
            {"id": "4fd0b1c8-0f3c-4d0e-9a51-6c1f7c4b5e11", "box": [1.5, 2, 3, 4], "n": None}
        ).encode(),
    }
    source = make_tar(tmp_path / "in" / "a.tar", *[(name, data, {}) for name, data in texts.items()])
    (outcome,) = paint(make_job(source, tmp_path / "out", columns=("txt", "cls", "url", "json")), monkeypatch)
    assert not outcome.failed and members(tmp_path / "out" / "a.tar")[0] == texts


@pytest.mark.parametrize("column", ["refused", "png.refused"])
def test_the_suffix_of_refused_photos_is_reserved(tmp_path, monkeypatch, column):
    photo = ("a.png", no_face(1), {})
    assert "refused" in failed(tmp_path, monkeypatch, ("a.png.refused", b"no", {}), photo, columns=(column,))
