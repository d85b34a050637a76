"""Every way in which diffusers loads a custom pipeline, each in a clean interpreter, gives the same image."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from functools import partial
from hashlib import sha1
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

import nullface_pipeline
from nullface_pipeline.publish.single_file import MODULES, write_single_file

from .tiny_parts import generators, make_adapter, make_components, make_embeds, make_images


PACKAGE = Path(nullface_pipeline.__file__).parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"

CALL = """
import sys
import numpy as np
import safetensors.torch
import torch
torch.set_num_threads(1)
folder, source, result = sys.argv[1:]
{load}
assert type(pipe).__name__ == "StableDiffusionNullFacePipeline"
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
from nullface_pipeline import StableDiffusionNullFacePipeline
pipe = StableDiffusionNullFacePipeline.from_pretrained(folder + "/model")
"""
FROM_PIPE = """
from diffusers import DiffusionPipeline, StableDiffusionPipeline
base = StableDiffusionPipeline.from_pretrained(folder + "/model")
pipe = DiffusionPipeline.from_pipe(base, custom_pipeline=source, trust_remote_code=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Stable Diffusion shaped repository, an adapter file, and the inputs of the call."""
    from diffusers import StableDiffusionPipeline

    folder = tmp_path_factory.mktemp("routes")
    components = make_components()
    adapter = make_adapter(components["unet"])
    StableDiffusionPipeline(
        **components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder / "model")
    flat = {f"{part}.{key}": value for part, tensors in adapter.items() for key, value in tensors.items()}
    safetensors.torch.save_file(flat, folder / "adapter.safetensors")
    inputs = {"image": make_images(1), "embeds": make_embeds(1)}
    safetensors.torch.save_file(inputs, folder / "inputs.safetensors")
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    from nullface_pipeline import StableDiffusionNullFacePipeline

    pipe = StableDiffusionNullFacePipeline.from_pretrained(folder / "model")
    pipe.load_face_adapter(folder / "adapter.safetensors")
    return pipe(
        make_images(1),
        identity_embeds=make_embeds(1),
        num_inference_steps=20,
        generator=generators(1)[0],
        output_type="np",
    ).images


def copy_modules(target: Path) -> Path:
    """What a Hub repository or a folder for `custom_pipeline` holds: the modules, and nothing else of the package."""
    target.mkdir(parents=True, exist_ok=True)
    for name in MODULES:
        shutil.copy(PACKAGE / f"{name}.py", target)
    return target


def run_route(folder, tmp_path, load, source, installed=False, **environment):
    result = tmp_path / "image.npy"
    code = textwrap.dedent(CALL).format(load=load, installed=installed)
    # -P keeps the working directory off the path, so that only the installed-package route can see the package.
    run = subprocess.run(
        [sys.executable, "-P", "-c", code, str(folder), str(source), str(result)],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return np.load(result)


def test_local_folder(folder, expected, tmp_path):
    source = copy_modules(tmp_path / "custom")
    assert np.array_equal(run_route(folder, tmp_path, CUSTOM, source), expected)


def test_package_folder_as_it_is(folder, expected, tmp_path):
    assert np.array_equal(run_route(folder, tmp_path, CUSTOM, PACKAGE), expected)


def test_single_file(folder, expected, tmp_path):
    source = tmp_path / "nullface.py"
    write_single_file(source)
    assert "from ." not in source.read_text()
    assert np.array_equal(run_route(folder, tmp_path, CUSTOM, source), expected)


def test_model_index_names_the_pipeline(folder, expected, tmp_path):
    source = copy_modules(tmp_path / "model")
    shutil.copytree(folder / "model", source, dirs_exist_ok=True)
    index = json.loads((source / "model_index.json").read_text())
    index["_class_name"] = ["pipeline", "StableDiffusionNullFacePipeline"]
    (source / "model_index.json").write_text(json.dumps(index))
    assert np.array_equal(run_route(folder, tmp_path, OWN_CODE, source), expected)


def test_installed_package(folder, expected, tmp_path):
    assert np.array_equal(run_route(folder, tmp_path, INSTALLED, "-", installed=True), expected)


def test_from_a_stable_diffusion_pipeline(folder, expected, tmp_path):
    source = copy_modules(tmp_path / "custom")
    assert np.array_equal(run_route(folder, tmp_path, FROM_PIPE, source), expected)


class HubHandler(SimpleHTTPRequestHandler):
    """As much of the Hub's HTTP interface as downloading single files of one model repository takes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.respond(body=False)

    def do_GET(self):
        self.respond(body=True)

    def respond(self, body: bool):
        path = self.path.partition("?")[0]
        headers = {"X-Repo-Commit": COMMIT}
        if path.startswith("/api/models/org/nullface"):
            siblings = [{"rfilename": name} for name in os.listdir(self.directory)]
            content = json.dumps({"id": "org/nullface", "sha": COMMIT, "siblings": siblings}).encode()
            headers["Content-Type"] = "application/json"
        else:
            file = Path(self.directory) / path.rpartition("/")[2]
            if not path.startswith("/org/nullface/resolve/") or not file.is_file():
                headers["X-Error-Code"] = "EntryNotFound"
                return self.send(404, b"", headers, body)
            content = file.read_bytes()
            headers["ETag"] = f'"{sha1(content).hexdigest()}"'
        self.send(200, content, headers, body)

    def send(self, status: int, content: bytes, headers: dict[str, str], body: bool):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path):
    """A Hub on this machine that holds the repository org/nullface."""
    repository = copy_modules(tmp_path / "repository")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(HubHandler, directory=str(repository)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_hub_repository(folder, expected, tmp_path, hub):
    image = run_route(folder, tmp_path, CUSTOM, "org/nullface", HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert np.array_equal(image, expected)
    cached = list((tmp_path / "hf").rglob(f"snapshots/{COMMIT}/*.py"))
    assert {path.stem for path in cached} == set(MODULES)


def test_importing_the_package_does_not_import_torch():
    code = "import sys, nullface_pipeline, nullface_pipeline.cli; assert 'torch' not in sys.modules; print('fine')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "fine\n"


def test_every_module_the_pipeline_needs_is_named_in_it():
    """diffusers copies what pipeline.py names, not what its helpers name."""
    from diffusers.utils.dynamic_modules_utils import get_relative_imports

    assert set(get_relative_imports(str(PACKAGE / "pipeline.py"))) == set(MODULES) - {"pipeline"}
    for name in MODULES:
        assert set(get_relative_imports(str(PACKAGE / f"{name}.py"))) <= set(MODULES)


def test_single_file_is_the_modules(tmp_path):
    """No name of one module hides another's where they share a namespace."""
    import ast

    names = []
    for module in MODULES:
        for node in ast.parse((PACKAGE / f"{module}.py").read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.append(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names += [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    assert len(names) == len(set(names))


def test_single_file_passes_diffusers_lint(tmp_path):
    write_single_file(tmp_path / "nullface.py")
    ruff = [sys.executable, "-m", "ruff"]
    settings = ["--isolated", "--line-length", "119"]
    rules = ["--select", "C,E,F,I,W", "--ignore", "C901,E501,E741", "--config", "lint.isort.lines-after-imports=2"]
    file = str(tmp_path / "nullface.py")
    subprocess.run([*ruff, "check", *settings, *rules, file], check=True)
    subprocess.run([*ruff, "format", "--check", *settings, file], check=True)
