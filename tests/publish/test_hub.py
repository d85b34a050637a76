import json
import posixpath
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner, Result

from nullface_pipeline import StableDiffusionNullFacePipeline, StableDiffusionXLNullFacePipeline
from nullface_pipeline.cli import app
from nullface_pipeline.publish import hub
from nullface_pipeline.publish.hub import PACKAGE, model_files, pipeline_files, write_repository
from nullface_pipeline.publish.single_file import CORE
from nullface_pipeline.publish.space import space_files

from ..local_hub import COMMIT, LocalHub, files_of, run_clean
from ..tiny_parts import make_xl_components


SETTINGS = {"num_inference_steps": 12, "skip": 0.5, "output_type": "np"}

CALL = """
import numpy as np
import torch
import safetensors.torch
from diffusers import DiffusionPipeline
{load}
assert type(pipe).__name__ == "StableDiffusionNullFacePipeline"
pipe.load_face_adapter("{tiny}/face_adapter.safetensors")
inputs = safetensors.torch.load_file("inputs.safetensors")
generator = torch.Generator().manual_seed(0)
images = pipe(inputs["image"], identity_embeds=inputs["embeds"], generator=generator, **{settings}).images
np.save("image.npy", images)
"""


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (128, 128), mode="bicubic").clamp(0, 1)
    return {"image": image, "embeds": torch.randn(1, 512, generator=generator)}


@pytest.fixture(scope="module")
def expected(pipe: StableDiffusionNullFacePipeline, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe(inputs["image"], identity_embeds=inputs["embeds"], generator=generator, **SETTINGS).images


@pytest.fixture
def home(tmp_path: Path, inputs: dict[str, torch.Tensor]) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    safetensors.torch.save_file(inputs, folder / "inputs.safetensors")
    return folder


def image_of(home: Path, load: str, **environment: str) -> np.ndarray:
    run_clean(CALL.format(load=load, tiny=PACKAGE / "tiny", settings=SETTINGS), home, **environment)
    return np.load(home / "image.npy")


@pytest.mark.slow
def test_pipeline_repository_loads_from_a_hub(home, expected, tmp_path):
    write_repository(pipeline_files(), tmp_path / "export")
    source, name = f"{PACKAGE}/tiny/model", "nullface/nullface"
    load = f"pipe = DiffusionPipeline.from_pretrained({source!r}, custom_pipeline={name!r}, trust_remote_code=True)"
    with LocalHub({"nullface/nullface": tmp_path / "export"}) as hub:
        image = image_of(home, load, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
    assert np.array_equal(image, expected)
    cached = list((home / "hf").rglob(f"snapshots/{COMMIT}/*.py"))
    assert {path.stem for path in cached} == {*CORE, "pipeline"}


def sdxl_files(repository: str = hub.SDXL_REPOSITORY) -> dict[str, bytes]:
    return pipeline_files(repository, "pipeline_sdxl")


@pytest.mark.slow
def test_pipeline_repository_of_stable_diffusion_xl_loads_from_a_hub(tmp_path):
    """The Hub's loader always takes pipeline.py."""
    pipe = StableDiffusionXLNullFacePipeline(**make_xl_components())
    pipe.save_pretrained(tmp_path / "model")
    write_repository(sdxl_files(), tmp_path / "export")
    load = f"""
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(
    '{tmp_path}/model', custom_pipeline='nullface/nullface-xl', trust_remote_code=True
)
print(type(pipe).__name__, pipe.face_adapter_name)
"""
    with LocalHub({"nullface/nullface-xl": tmp_path / "export"}) as hub:
        printed = run_clean(load, tmp_path, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
    assert printed == "StableDiffusionXLNullFacePipeline ip-adapter-faceid_sdxl.bin\n"


def test_the_card_of_stable_diffusion_xl_is_the_other_in_its_own_words():
    card, other = (files["README.md"].decode() for files in (sdxl_files("me/mine"), pipeline_files("me/mine")))
    assert [words for words in hub.SDXL_CARD if words not in other] == []
    assert [words for words in hub.SDXL_CARD if words in card] == []
    assert "512" not in card and "sd15" not in card
    assert 'custom_pipeline="me/mine"' in card


@pytest.mark.parametrize("make_files", [pipeline_files, sdxl_files])
def test_pipeline_repository_is_code_and_no_weights(make_files):
    files = make_files()
    assert {f"{module}.py" for module in CORE} | {"pipeline.py", "README.md", "LICENSE"} <= set(files)
    assert not [name for name in files if name.endswith((".safetensors", ".onnx", ".bin"))]
    assert sum(map(len, files.values())) < 2e6


def test_model_index_names_the_class_and_its_components():
    index = json.loads(model_files()["model_index.json"])
    assert index["_class_name"] == ["pipeline", "StableDiffusionNullFacePipeline"]
    assert {name for name in index if not name.startswith("_")} == {*hub.COMPONENTS, "presets"}


@pytest.mark.parametrize("make_files", [pipeline_files, sdxl_files, model_files])
def test_links_between_the_pages_lead_to_files(make_files):
    files = make_files()
    for page in (name for name in files if name.endswith(".md")):
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", files[page].decode())
        assert {posixpath.normpath(posixpath.join(posixpath.dirname(page), link)) for link in links} <= set(files)
    assert b"](docs/evidence/nullface-tiny.md)" in files["README.md"]


def test_the_card_bears_the_repositorys_name():
    card = pipeline_files("me/mine")["README.md"].decode()
    assert 'custom_pipeline="me/mine"' in card and "nullface/nullface" not in card
    assert 'snapshot_download("me/tiny")' in model_files("me/tiny")["README.md"].decode()


def export(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)], env={"COLUMNS": "200", **environment})


@pytest.mark.parametrize(
    ("options", "make_files"),
    [
        (["--hub"], pipeline_files),
        (["--sdxl", "--hub"], sdxl_files),
        (["--model"], model_files),
        (["--space"], space_files),
    ],
)
def test_export_writes_a_folder_and_replaces_only_its_own(tmp_path, options, make_files):
    folder = tmp_path / "export"
    folder.mkdir()
    for _ in range(2):
        result = export(*options, folder)
        assert result.exit_code == 0, result.output
        assert {name: (folder / name).read_bytes() for name in files_of(folder)} == make_files()
        main_file = "app.py" if "--space" in options else "pipeline.py"
        (folder / main_file).write_text("changed")
    (folder / "diary.txt").write_text("dear diary")
    result = export(*options, folder)
    assert result.exit_code == 2 and "diary.txt" in result.output
    assert (folder / main_file).read_text() == "changed" and (folder / "diary.txt").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["export"], "nothing temporary is left"


def test_a_folder_that_only_looks_like_an_export_is_kept(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    assert export("--hub", tmp_path).exit_code == 2
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of"),
        (["--hub", "a", "--model", "b"], "exactly one of"),
        (["--hub", "a", "--single-file", "b.py"], "exactly one of"),
        (["--push", "me/mine"], "exactly one of"),
        (["--single-file", "nullface.py", "--push", "me/mine"], "--hub, --model or --space"),
        (["--hub", "no/such/folder"], "does not exist"),
        (["--hub", "file.txt"], "is not a folder"),
        (["--model", "a", "--sdxl"], "--hub or --single-file"),
        (["--space", "a", "--sdxl"], "--hub or --single-file"),
        (["--hub", "a", "--git", "https://host/me/mine@v1"], "--space"),
        (["--space", "a", "--git", "https://host/me/mine"], "a revision"),
        (["--hub", "a", "--push", "not a name"], "not a name"),
        (["--hub", "a", "--push", "mine"], "--push mine"),
        (["--hub", "a", "--push", "me/mine", "--no-dry-run"], "hf auth login"),
    ],
)
def test_wrong_usage_writes_nothing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (tmp_path / "file.txt").touch()
    result = export(*arguments)
    assert result.exit_code == (1 if "auth login" in message else 2) and message in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize(("options", "name"), [([], "StableDiffusion"), (["--sdxl"], "StableDiffusionXL")])
def test_export_of_a_single_file(tmp_path, options, name):
    file = tmp_path / "new" / "folder" / "nullface.py"
    result = export("--single-file", file, *options)
    assert result.exit_code == 0, result.output
    classes = re.findall(r"^class (StableDiffusion\w+)\(", file.read_text(), flags=re.MULTILINE)
    assert classes == [f"{name}NullFacePipeline"]


def test_export_needs_a_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "CLONE", tmp_path)
    result = export("--hub", tmp_path / "export")
    assert result.exit_code == 1 and not (tmp_path / "export").exists()


def test_push_says_what_it_would_upload_and_uploads(tmp_path, monkeypatch):
    """Through the Hub's own client, which reads the address when it is imported."""
    with LocalHub({}) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        push = ("--hub", tmp_path / "export", "--push", "me/mine")
        dry = export(*push, "--dry-run", HF_TOKEN="hf_mine")
        assert dry.exit_code == 0 and hub.uploads == {} and hub.tokens == set()
        pushed = export(*push, "--no-dry-run", HF_TOKEN="hf_mine")
        uploads, tokens = hub.uploads, hub.tokens
    assert "Nothing was uploaded" in dry.output and "face_crops.py" in dry.output and "kB" in dry.output
    assert pushed.exit_code == 0 and "Uploaded: http" in pushed.output
    assert uploads == pipeline_files("me/mine")
    assert tokens == {"Bearer hf_mine"}
