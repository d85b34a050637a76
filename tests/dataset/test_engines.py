"""The same pictures from every engine, number of workers and size of shards; what a shard costs
besides the model.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nullface_pipeline.photo_folder import anonymize_photos, find_photos

from .namespace import CLONE, needs_namespace, run_inside
from .samples import Painter, make_job, make_photos, paint, results
from .test_killed import write_seed


# Another number of threads rounds differently: a pixel may differ by one or two of 255.
ONE_THREAD = {**os.environ, "PYTHONPATH": str(CLONE), "OMP_NUM_THREADS": "1"}
PORTRAITS = CLONE.parent / "shared" / "data" / "portraits.parquet"


@pytest.fixture
def portraits(tmp_path: Path) -> Callable[[int], Path]:
    """Writes so many portraits of at most 260 px into a folder."""

    def write(count: int) -> Path:
        import pyarrow.parquet as pq

        if not PORTRAITS.exists():
            pytest.skip("needs ../shared/data/portraits.parquet")
        columns = ["id", "image", "width", "height"]
        group = pq.ParquetFile(PORTRAITS).read_row_group(0, columns=columns).to_pylist()
        small = [row for row in group if max(row["width"], row["height"]) <= 260][:count]
        assert len(small) == count
        for number, row in enumerate(small):
            path = tmp_path / "in" / str(number % 3) / f"{row['id']}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row["image"])
        return tmp_path / "in"

    return write


def launch(processes: int, *arguments: object) -> None:
    """The command under `accelerate launch`, whose `--cpu` would start a single process."""
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_cpu_threads_per_process",
        "1",
    ]
    words = [*launcher, "--num_processes", processes, "-m", "tests.dataset.driver", *arguments]
    run = subprocess.run([str(word) for word in words], cwd=CLONE, env=ONE_THREAD, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert run.stdout.count(" shard(s) to do.") == processes


def run_everywhere(source: Path, folder: Path, *options: object) -> dict[str, dict[str, bytes]]:
    """The results of each engine, workers and size of shards."""
    model = [option for option in options if option == "--with-the-model"]
    others = [option for option in options if option not in model] + ["--seed-file", write_seed(folder)]
    for size in (7, 50):
        command = [sys.executable, "-m", "tests.dataset.driver", source, "-o", folder / f"local {size}"]
        command += ["--shard-size", size, *others, *model]
        run = subprocess.run([str(word) for word in command], cwd=CLONE, env=ONE_THREAD, capture_output=True)
        assert run.returncode in (0, 3, 4)
    accelerated = ("-o", folder / "accelerate", "--engine", "accelerate", "--device", "cpu", "--shard-size", 7)
    launch(2, source, *accelerated, *others, *model)
    run_inside(
        f"""
options = {list(map(str, others))!r}
start_node(4, head=True)
for workers, size in ((1, 7), (2, 50)):
    sizes = ("--workers", workers, "--shard-size", size)
    run = start({str(source)!r}, f"{folder}/ray {{workers}}", *sizes, *options, painted={not model})
    code, output = finish(run, 500)
    assert code in (0, 3, 4), output
""",
        folder,
        580,
    )
    return {name: results(folder / name) for name in ("local 7", "local 50", "accelerate", "ray 1", "ray 2")}


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_painted_pictures_are_the_same_everywhere(tmp_path):
    needs_namespace()
    (make_photos(tmp_path / "in", 400) / "0" / "broken.png").write_bytes(b"no photo")
    made = run_everywhere(tmp_path / "in", tmp_path)
    assert len(made["local 7"]) == 400
    assert all(other == made["local 7"] for other in made.values()), {name: len(files) for name, files in made.items()}


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_the_models_pictures_are_the_same_everywhere(tmp_path, portraits):
    needs_namespace()
    made = run_everywhere(portraits(20), tmp_path, "--with-the-model", "--preset", "preview")
    assert len(made["local 7"]) >= 18
    assert all(other == made["local 7"] for other in made.values()), {name: len(files) for name, files in made.items()}


def test_a_shard_costs_little_more_than_the_plain_loop(tmp_path, monkeypatch):
    """Reading, writing and the report of 100 small pictures, beside the same photos as a folder
    run.
    """
    photos = make_photos(tmp_path / "in", 100)
    job = make_job(photos, tmp_path / "out")
    painter = Painter(job)

    def seconds(work):
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    plain = seconds(lambda: list(anonymize_photos(painter._anonymize, find_photos([photos], tmp_path / "plain"))))
    shards = seconds(lambda: paint(job, monkeypatch))
    print(f"\nplain {plain / 0.1:.2f} ms a photo, shards {shards / 0.1:.2f} ms")
    assert results(tmp_path / "plain") == results(tmp_path / "out")
    assert shards < 2 * plain + 2
