"""Every way in which diffusers loads a custom pipeline, each in a clean interpreter, gives the same
image.

From a Hub: tests/publish/test_hub.py. Community pages and cards: tests/test_model_card.py.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import diffusers
import numpy as np
import pytest
import safetensors.torch

import nullface_pipeline
from nullface_pipeline.publish.single_file import CORE, PIPELINES, write_single_file

from .tiny_parts import generators, make_adapter, make_components, make_embeds, make_images, make_xl_components


PACKAGE = Path(nullface_pipeline.__file__).parent

CALL = """
import sys
import numpy as np
import safetensors.torch
import torch
torch.set_num_threads(1)
folder, source, result = sys.argv[1:]
{load}
assert type(pipe).__name__ == "{name}"
assert ("nullface_pipeline" in sys.modules) is {installed}
pipe.set_progress_bar_config(disable=True)
pipe.load_face_adapter(folder + "/adapter.safetensors")
inputs = safetensors.torch.load_file(folder + "/inputs.safetensors")
image = pipe(
    inputs["image"],
    identity_embeds=inputs["embeds"],
    num_inference_steps=20,
    generator=torch.Generator().manual_seed(0),
    output_type="np",
).images
np.save(result, image)
"""

CUSTOM = """
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(folder + "/model", custom_pipeline=source, trust_remote_code=True)
"""
OWN_CODE = """
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(source, trust_remote_code=True)
"""
INSTALLED = """
from nullface_pipeline import {name}
pipe = {name}.from_pretrained(folder + "/model")
"""
FROM_PIPE = """
from diffusers import DiffusionPipeline, {base}
base = {base}.from_pretrained(folder + "/model")
pipe = DiffusionPipeline.from_pipe(base, custom_pipeline=source, trust_remote_code=True)
"""


class Route:
    """A Stable Diffusion (XL) shaped repository, an adapter file, and the inputs of the call, all
    in one folder.

    Attributes:
        pipeline (`str`): the module of the class.
        name, base (`str`): the class, and diffusers' own for the same model.
    """

    def __init__(self, pipeline: str, folder: Path) -> None:
        self.pipeline, self.folder = pipeline, folder
        xl = "XL" if pipeline == "pipeline_sdxl" else ""
        self.name, self.base = f"StableDiffusion{xl}NullFacePipeline", f"StableDiffusion{xl}Pipeline"
        components = make_xl_components() if xl else make_components()
        others = {} if xl else {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        adapter = make_adapter(components["unet"])
        getattr(diffusers, self.base)(**components, **others).save_pretrained(folder / "model")
        flat = {f"{part}.{key}": value for part, tensors in adapter.items() for key, value in tensors.items()}
        safetensors.torch.save_file(flat, folder / "adapter.safetensors")
        inputs = {"image": make_images(1), "embeds": make_embeds(1)}
        safetensors.torch.save_file(inputs, folder / "inputs.safetensors")

        pipe = getattr(nullface_pipeline, self.name).from_pretrained(folder / "model")
        pipe.load_face_adapter(folder / "adapter.safetensors")
        self.expected = pipe(
            make_images(1),
            identity_embeds=make_embeds(1),
            num_inference_steps=20,
            generator=generators(1)[0],
            output_type="np",
        ).images

    def run(
        self, tmp_path: Path, load: str, source: str | Path, installed: bool = False, **environment: str
    ) -> np.ndarray:
        """The image that the call gives in a new interpreter."""
        result = tmp_path / "image.npy"
        names = {"name": self.name, "base": self.base}
        code = textwrap.dedent(CALL).format(load=load.format(**names), installed=installed, **names)
        # -P keeps the working directory off the path, so that only the installed-package route can
        # see the package.
        run = subprocess.run(
            [sys.executable, "-P", "-c", code, str(self.folder), str(source), str(result)],
            cwd=tmp_path,
            env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", **environment},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        return np.load(result)


@pytest.fixture(scope="module", params=PIPELINES)
def route(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Route:
    return Route(request.param, tmp_path_factory.mktemp("routes"))


def copy_modules(target: Path, pipeline: str) -> Path:
    """What a Hub repository or a folder for `custom_pipeline` holds: the modules, and nothing else
    of the package.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in CORE:
        shutil.copy(PACKAGE / f"{name}.py", target)
    shutil.copy(PACKAGE / f"{pipeline}.py", target / "pipeline.py")
    return target


@pytest.mark.slow
def test_local_folder(route, tmp_path):
    source = copy_modules(tmp_path / "custom", route.pipeline)
    assert np.array_equal(route.run(tmp_path, CUSTOM, source), route.expected)


@pytest.mark.slow
def test_package_folder_as_it_is(route, tmp_path):
    """A folder is loaded for its pipeline.py; another file of it by its own path."""
    source = PACKAGE if route.pipeline == "pipeline" else PACKAGE / f"{route.pipeline}.py"
    assert np.array_equal(route.run(tmp_path, CUSTOM, source), route.expected)


def test_single_file_in_this_process(tmp_path, monkeypatch):
    """The only route without an interpreter of its own, which takes seconds to import torch."""
    components, settings = make_components(), {"num_inference_steps": 5, "skip": 0.2, "output_type": "np"}
    pipe = nullface_pipeline.StableDiffusionNullFacePipeline(**components)
    pipe.save_pretrained(tmp_path / "model")
    write_single_file(tmp_path / "nullface.py", "pipeline")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path)
    loaded = diffusers.DiffusionPipeline.from_pretrained(
        tmp_path / "model", custom_pipeline=str(tmp_path / "nullface.py"), trust_remote_code=True
    )
    assert type(loaded).__name__ == type(pipe).__name__ and not isinstance(loaded, type(pipe))
    images = []
    for each in (pipe, loaded):
        each.load_face_adapter(make_adapter(each.unet))
        images.append(each(make_images(1), make_embeds(1), generator=generators(1), **settings).images)
    assert np.allclose(*images, atol=1e-5)


@pytest.mark.slow
def test_single_file(route, tmp_path):
    source = tmp_path / "nullface.py"
    write_single_file(source, route.pipeline)
    assert "from ." not in source.read_text()
    assert np.array_equal(route.run(tmp_path, CUSTOM, source), route.expected)


@pytest.mark.slow
def test_model_index_names_the_pipeline(route, tmp_path):
    source = copy_modules(tmp_path / "model", route.pipeline)
    shutil.copytree(route.folder / "model", source, dirs_exist_ok=True)
    index = json.loads((source / "model_index.json").read_text())
    index["_class_name"] = ["pipeline", route.name]
    (source / "model_index.json").write_text(json.dumps(index))
    assert np.array_equal(route.run(tmp_path, OWN_CODE, source), route.expected)


@pytest.mark.slow
def test_installed_package(route, tmp_path):
    assert np.array_equal(route.run(tmp_path, INSTALLED, "-", installed=True), route.expected)


@pytest.mark.slow
def test_from_a_stable_diffusion_pipeline(route, tmp_path):
    source = copy_modules(tmp_path / "custom", route.pipeline)
    assert np.array_equal(route.run(tmp_path, FROM_PIPE, source), route.expected)


BOTH = """
import sys
from diffusers import DiffusionPipeline
for file, model in (("nullface.py", sys.argv[1]), ("nullface_xl.py", sys.argv[2])):
    pipe = DiffusionPipeline.from_pretrained(model + "/model", custom_pipeline=file, trust_remote_code=True)
    pipe.load_face_adapter(model + "/adapter.safetensors")
    print(type(pipe).__name__)
"""


@pytest.mark.slow
def test_both_pipelines_in_one_process(tmp_path):
    models = [Route(pipeline, tmp_path / pipeline).folder for pipeline in PIPELINES]
    for pipeline, file in zip(PIPELINES, ("nullface.py", "nullface_xl.py")):
        write_single_file(tmp_path / file, pipeline)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", "-c", BOTH, *map(str, models)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.stdout == "StableDiffusionNullFacePipeline\nStableDiffusionXLNullFacePipeline\n", run.stderr[-3000:]


def test_importing_the_package_does_not_import_torch():
    code = "import sys, nullface_pipeline, nullface_pipeline.cli; assert 'torch' not in sys.modules; print('fine')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "fine\n"


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_module_the_pipeline_needs_is_named_in_it(pipeline):
    """diffusers copies what the pipeline's file names, not what its helpers name."""
    from diffusers.utils.dynamic_modules_utils import get_relative_imports

    assert set(get_relative_imports(str(PACKAGE / f"{pipeline}.py"))) == set(CORE)
    for name in CORE:
        assert set(get_relative_imports(str(PACKAGE / f"{name}.py"))) <= set(CORE)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_single_file_is_the_modules(pipeline):
    """No name of one module hides another's where they share a namespace."""
    import ast

    names = []
    for module in (*CORE, pipeline):
        for node in ast.parse((PACKAGE / f"{module}.py").read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.append(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names += [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_single_file_passes_diffusers_lint(tmp_path, pipeline):
    write_single_file(tmp_path / "nullface.py", pipeline)
    ruff = [sys.executable, "-m", "ruff"]
    settings = ["--isolated", "--line-length", "119"]
    rules = ["--select", "C,E,F,I,W", "--ignore", "C901,E501,E741", "--config", "lint.isort.lines-after-imports=2"]
    file = str(tmp_path / "nullface.py")
    subprocess.run([*ruff, "check", *settings, *rules, file], check=True)
    subprocess.run([*ruff, "format", "--check", *settings, file], check=True)
