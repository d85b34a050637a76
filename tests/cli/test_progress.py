"""The bars of runs: they move within a photo and within a shard."""

import itertools
from types import SimpleNamespace

import numpy as np
import PIL.Image
import torch
from skimage import data

from nullface_pipeline.cli.progress import PhotoProgress, ShardProgress, expected_evaluations, make_progress
from nullface_pipeline.photo_options import PRESETS, PhotoOptions


class UNet(torch.nn.Module):
    def forward(self, samples: int) -> tuple[torch.Tensor]:
        return (torch.zeros(samples),)


def test_evaluations_and_faces_move_the_bar():
    pipe = SimpleNamespace(unet=UNet(), presets=PRESETS)
    options = PhotoOptions(preset="fast", identity="opposite")
    assert expected_evaluations(pipe, options) == 20
    progress = PhotoProgress(pipe, options, total=2)
    (task,) = progress.bar.tasks
    progress.on_faces(0, 4)
    assert task.completed == 0 and task.fields["faces"] == "face 1 of 4"
    pipe.unet(20)
    assert task.completed == 0.25 and task.fields["units"] == 20
    progress.on_faces(3, 4)
    assert task.completed == 0.75 and task.fields["faces"] == "face 4 of 4"
    pipe.unet(1000)
    assert task.completed == 0.99, "more work than expected"
    progress.on_photo(4)
    assert task.completed == 1 and task.fields["faces"] == "faces: 4"
    progress.on_faces(0, 1)
    pipe.unet(51)
    assert task.completed == 1.2, "255 evaluations a face so far"


def test_the_bar_shows_a_rate_and_an_estimate():
    seconds = itertools.count()
    progress = make_progress(rate="frames")
    progress.get_time = lambda: float(next(seconds))
    progress.add_task("clip", total=100)
    (task,) = progress.tasks
    for _ in range(5):
        progress.advance(task.id, 2)
    rate, remaining = (column.render(task).plain for column in progress.columns[-2:])
    assert float(rate.removesuffix(" frames/s")) > 0 and remaining.startswith("0:0")


def test_photos_of_a_shard_move_the_bar():
    progress = ShardProgress([SimpleNamespace(photos=("a", "b", "c", "d")), SimpleNamespace(photos=("e", "f"))])
    (task,) = progress.bar.tasks
    progress.on_photo()
    assert task.completed == 0.25 and task.fields["units"] == 1
    progress.on_shard(SimpleNamespace(photos=4))
    assert task.completed == 1 and task.fields["units"] == 4


def test_a_photo_reports_its_faces(pipe):
    one = data.astronaut()[:260, 90:350]
    photo = PIL.Image.fromarray(np.hstack([one, one[:, ::-1]]))
    reports = []
    pipe.anonymize(
        photo,
        num_inference_steps=2,
        skip=0.5,
        identity="opposite",
        max_attempts=2,
        similarity_threshold=-1.0,
        on_progress=lambda *numbers: reports.append(numbers),
    )
    assert reports == [(0, 2), (0, 2)], "before each of two attempts"
