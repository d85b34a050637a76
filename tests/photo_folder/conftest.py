from pathlib import Path

import PIL.Image
import pytest


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a.jpg", "b/hard.png", "b/c/empty.webp", "b/d.JPG", "notes.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no photo")
        else:
            PIL.Image.new("RGB", (40, 30), "red").save(
                path, format={".webp": "WEBP", ".png": "PNG"}.get(path.suffix, "JPEG")
            )
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    return folder
