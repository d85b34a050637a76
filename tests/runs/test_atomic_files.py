import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from nullface_pipeline.photo_files import PhotoFileError, read_photo, write_photo
from nullface_pipeline.runs.atomic_files import TEMPORARY_PATTERN

from ..photo_files.samples import opened, put, saved


@pytest.mark.parametrize("keep_old", [False, True])
def test_a_full_disk_leaves_nothing_behind(tmp_path, keep_old):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    photo = read_photo(put(tmp_path, saved(PIL.Image.fromarray(noise), "PNG")))
    if keep_old:
        put(tmp_path, b"yesterday's result", "result")
    names = sorted(os.listdir(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(PhotoFileError):
            write_photo(photo.image, tmp_path / "result", photo)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(os.listdir(tmp_path)) == names
    if keep_old:
        assert (tmp_path / "result").read_bytes() == b"yesterday's result"


WRITE_FOR_EVER = """
import sys
from nullface_pipeline.photo_files import read_photo, write_photo
photo = read_photo(sys.argv[1])
while True:
    write_photo(photo.image, sys.argv[2], photo)
"""


def test_no_partial_file_is_ever_visible(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    source, result = put(tmp_path, saved(PIL.Image.fromarray(noise), "TIFF")), tmp_path / "result"
    writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, source, result])
    try:
        seen, started = set(), time.monotonic()
        while len(seen) < 20 and time.monotonic() - started < 20:
            if result.exists():
                seen.add(result.stat().st_mtime_ns)
                assert len(result.read_bytes()) > noise.size
    finally:
        writer.kill()
        writer.wait()
    assert len(seen) > 1
    assert np.array_equal(opened(result.read_bytes()), noise)
    left = {path.name for path in tmp_path.iterdir()} - {"photo", "result"}
    assert len(left) <= 1 and all(Path(name).match(TEMPORARY_PATTERN) and name.startswith(".") for name in left)
