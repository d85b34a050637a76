"""The paper's settings, and their pictures: made once, from one inversion a photo."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from skimage import data

from nullface_pipeline import StableDiffusionNullFacePipeline
from nullface_pipeline.evaluation.inpainting import load_inpainter
from nullface_pipeline.evaluation.paper import FIGURES, TABLES, Setting, draw_photos, select_settings
from nullface_pipeline.evaluation.paper_pictures import make_pictures
from nullface_pipeline.evaluation.utility_metrics import load_measures, read_weights
from nullface_pipeline.face_crops import FaceCrop

from .test_attributes import FIVE


STEPS = 4
SETTINGS = (Setting("a"), Setting("b", keep=("eyes",), guidance_scale=7.0))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    PIL.Image.fromarray(FaceCrop.from_landmarks(FIVE, 160).crop_image(data.astronaut())).save(folder / "0.png")
    PIL.Image.fromarray(np.full((160, 160, 3), 90, dtype=np.uint8)).save(folder / "1.png")
    return sorted(folder.iterdir())


def unet_rows(pipe: StableDiffusionNullFacePipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    rows: list[int] = []
    forward = pipe.unet.forward

    def counted(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(pipe.unet, "forward", counted)
    return rows


def test_one_inversion_serves_all_settings_and_nothing_is_made_twice(pipe, photos, tmp_path, monkeypatch):
    rows = unet_rows(pipe, monkeypatch)
    skip = 0.5  # two of four steps
    settings = [Setting(s.name, s.keep, s.guidance_scale, skip=skip) for s in SETTINGS]
    left_out = dict(make_pictures(pipe, photos, settings, tmp_path, STEPS))
    assert left_out[photos[0]] == "" and "No face" in left_out[photos[1]]
    assert sum(rows) == 2 + len(settings) * (1 + 2)
    pictures = [np.asarray(PIL.Image.open(tmp_path / name / "0.png")) for name in ("a", "b")]
    assert pictures[0].shape == (160, 160, 3) and (pictures[0] != pictures[1]).any()
    rows.clear()
    list(make_pictures(pipe, photos[:1], settings, tmp_path, STEPS))
    assert not rows


def test_the_baseline_has_the_name_of_what_it_is(pipe, photos, tmp_path):
    list(make_pictures(pipe, photos[:1], (), tmp_path, STEPS, inpainter=load_inpainter(pipe, None)))
    assert (tmp_path / "inpainting by blending" / "0.png").is_file()


def test_settings_are_the_papers():
    assert TABLES[1][0].keep == ("eyes", "mouth") and TABLES[1][0].guidance_scale == 10.0
    assert len(TABLES[3]) == len({setting.keep for setting in TABLES[3]}) == 7
    assert {setting.guidance_scale for setting in TABLES[3]} == {7.0}
    assert all(len({setting.name for setting in settings}) == len(settings) for settings in FIGURES.values())


@pytest.mark.parametrize(
    "table, figure, words", [(None, None, "--table"), (1, 3, "--table"), (None, 10, "--reversal-attack")]
)
def test_one_table_or_figure(table, figure, words):
    with pytest.raises(ValueError, match=words):
        select_settings(table, figure)


def test_another_set_than_the_papers_is_an_error_unless_people_are_drawn(photos):
    folder = photos[0].parent
    with pytest.raises(ValueError, match="4852"):
        draw_photos(folder, "celeba-hq", 1, None)
    with pytest.raises(ValueError, match="--num-subjects is 3"):
        draw_photos(folder, "celeba-hq", 1, 3)
    assert draw_photos(folder, "celeba-hq", 1, 2) == photos


def test_what_lacks_its_model_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    measures, not_run = load_measures({})
    assert [measure.name for measure in measures.pairs] == ["SSIM outside the face"]
    assert {"gaze (MobileGaze)", "FID and KID", "LPIPS outside the face"} <= set(not_run)
    assert all(reason.startswith("needs") for reason in not_run.values())
    with pytest.raises(ValueError, match="NAME=FILE"):
        read_weights(["nose=FILE"])
