"""The cards' metadata is what the Hub takes, and their examples run as they stand, with
nullface-tiny for the real weights.
"""

import inspect
import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import torch
from facexlib.parsing.bisenet import BiSeNet
from huggingface_hub import ModelCard, ModelCardData
from skimage import data

from nullface_pipeline import StableDiffusionNullFacePipeline
from nullface_pipeline.ddpm_inversion import InversionSettings
from nullface_pipeline.face_regions import CELEBAMASK_LABELS
from nullface_pipeline.publish.hub import CLONE, PACKAGE, model_files, pipeline_files, write_repository
from nullface_pipeline.publish.single_file import write_single_file

from .local_hub import LocalHub, fill_cache, run_clean


CARDS = {"pipeline": CLONE / "model_card" / "README.md", "model": CLONE / "model_card" / "nullface-tiny" / "README.md"}
COMMUNITY = CLONE / "docs" / "community"
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
FACEID = "h94/IP-Adapter-FaceID"


def python_blocks(text: str) -> str:
    """All examples of a page, as one program."""
    return "\n".join(re.findall(r"^```py(?:thon)?\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def faceid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nullface-tiny's adapter under the name and in the file format of the published one."""
    folder = tmp_path_factory.mktemp("faceid")
    parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in safetensors.torch.load_file(PACKAGE / "tiny" / "face_adapter.safetensors").items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    torch.save(parts, folder / "ip-adapter-faceid_sd15.bin")
    return folder


@pytest.fixture(scope="module")
def bisenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """facexlib's BiSeNet with weights that call every pixel skin: the file's layout, without what
    was learned.
    """
    model = BiSeNet(num_class=len(CELEBAMASK_LABELS))
    output = model.conv_out.conv_out.weight.data
    output.zero_()
    output[CELEBAMASK_LABELS.index("skin")] = 1.0
    path = tmp_path_factory.mktemp("bisenet") / "parsing_bisenet.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def home(tmp_path: Path, bisenet: Path) -> Path:
    """A home folder with the face models where InsightFace and facexlib's download put them, and
    two pictures.
    """
    home = tmp_path / "home"
    pack = home / ".insightface" / "models" / "buffalo_l"
    pack.mkdir(parents=True)
    tiny = PACKAGE / "tiny" / "face_models"
    shutil.copy(tiny / "detector.onnx", pack / "det_10g.onnx")
    shutil.copy(tiny / "recognizer.onnx", pack / "w600k_r50.onnx")
    (home / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    (home / "torch" / "hub" / "checkpoints" / bisenet.name).symlink_to(bisenet)
    photo = PIL.Image.fromarray(data.astronaut())
    photo.save(home / "family.jpg", quality=95)
    photo.crop((140, 20, 300, 180)).resize((128, 128)).save(home / "portrait.png")
    return home


def pixels(path: Path) -> np.ndarray:
    return np.asarray(PIL.Image.open(path).convert("RGB")).astype(int)


def assert_another_face(home: Path) -> None:
    before, after = pixels(home / "family.jpg"), pixels(home / "family-anonymized.png")
    assert np.abs(after - before)[60:180, 170:280].mean() > 5
    assert np.array_equal(after[300:], before[300:])


# By name, diffusers asks PyPI for the list of its releases first; where there is no network, it has
# none.
NO_PYPI = "import diffusers.utils.dynamic_modules_utils as dynamic\ndynamic.get_diffusers_versions = lambda: []\n"


@pytest.mark.slow
def test_examples_of_the_pipelines_card_and_of_the_community_file(home, faceid, tmp_path):
    """The card's against a Hub on this machine; the community page's from a cache alone. Both give
    one picture.
    """
    exported, mirror, model = tmp_path / "nullface", tmp_path / "mirror", PACKAGE / "tiny" / "model"
    write_repository(pipeline_files(), exported)
    example = python_blocks((exported / "README.md").read_text())
    with LocalHub({SD15: model, FACEID: faceid, "nullface/nullface": exported}) as hub:
        printed = run_clean(example, home, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
    assert " replaced -" in printed, "the face is hidden by the method, and away from the person"
    assert_another_face(home)
    assert np.abs(pixels(home / "portrait-10.0.png") - pixels(home / "portrait-5.0.png")).mean() > 1
    by_card = pixels(home / "family-anonymized.png")

    shutil.rmtree(home / "hf")
    (mirror / "main").mkdir(parents=True)
    write_single_file(mirror / "main" / "nullface.py")
    fill_cache(home, "datasets", "diffusers/community-pipelines-mirror", mirror)
    fill_cache(home, "models", SD15, model)
    fill_cache(home, "models", FACEID, faceid)
    (home / "family-anonymized.png").unlink()
    run_clean(NO_PYPI + python_blocks((COMMUNITY / "section.md").read_text()), home)
    assert np.array_equal(pixels(home / "family-anonymized.png"), by_card)


@pytest.mark.slow
def test_example_of_the_models_card(home, pipe, tmp_path):
    exported = tmp_path / "tiny"
    write_repository(model_files(), exported)
    fill_cache(home, "models", "nullface/nullface-tiny", exported)
    run_clean(python_blocks((exported / "README.md").read_text()), home)
    assert_another_face(home)
    with PIL.Image.open(home / "family.jpg") as photo:
        expected = pipe.anonymize(photo, seed=0).image
    assert np.array_equal(pixels(home / "family-anonymized.png"), np.asarray(expected))


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS.keys())
def test_metadata(card):
    read = ModelCard.load(card)
    assert ModelCardData(**read.data.to_dict()).to_dict() == read.data.to_dict()
    assert read.data.library_name == "diffusers"
    assert read.data.pipeline_tag == "image-to-image"
    assert "arxiv:2503.08478" in read.data.tags
    assert (read.data.license, read.data.get("license_link")) in [("apache-2.0", None), ("other", "LICENSE.md")]
    if read.data.license == "other":
        assert re.fullmatch(r"[a-z0-9-]+", read.data["license_name"])
        assert (card.parent / read.data["license_link"]).is_file()


def test_base_models_are_those_of_the_example():
    read = ModelCard.load(CARDS["pipeline"])
    assert read.data.base_model == [SD15, FACEID]
    assert all(name in read.text for name in read.data.base_model)


def test_settings_in_the_card_are_the_defaults():
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([\d.]+) \|", CARDS["pipeline"].read_text(), flags=re.MULTILINE)
    parameters = inspect.signature(StableDiffusionNullFacePipeline.__call__).parameters
    defaults = {name: parameters[name].default for name, _ in rows}
    of_inversion = {name: getattr(InversionSettings(), name) for name, default in defaults.items() if default is None}
    assert len(rows) == 6
    assert {name: float(value) for name, value in rows} == {**defaults, **of_inversion}


def test_row_and_section_of_the_community_page():
    row, section = ((COMMUNITY / name).read_text() for name in ("table-row.md", "section.md"))
    cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
    assert len(cells) == 5 and row.count("\n") == 1, "example, description, code example, colab, author"
    title = section.splitlines()[0].removeprefix("### ")
    assert cells[0] == title
    assert cells[2] == f"[{title}](#{title.lower().replace(' ', '-')})"
