"""Generator of the single-file pipeline: all core modules in one file without relative imports.

diffusers loads community pipelines by name from a single file. The output is readable code: the
bodies of the modules in the order of their dependencies, below one sorted block of imports.
"""

import ast
import sys
from pathlib import Path

from nullface_pipeline.runs.atomic_files import write_whole


# Modules of every pipeline. Each imports only modules that come before it.
CORE = (
    "protocols",
    "photo_records",
    "colour_profile",
    "ddpm_inversion",
    "face_crops",
    "face_identity",
    "face_regions",
    "face_parsing",
    "image_inputs",
    "face_adapter",
    "photo_options",
    "face_covers",
    "face_search",
    "face_masks",
    "face_target",
    "identity_prior",
    "identity_choices",
    "face_edit",
    "input_checks",
    "photo",
    "unet_denoiser",
    "prompt_tokens",
    "pipeline_output",
    "pipeline_mixin",
)
PIPELINES = ("pipeline", "pipeline_sdxl")
LINE_LENGTH = 119


def write_single_file(path: Path, pipeline: str = "pipeline") -> None:
    """Write one of `PIPELINES` as one Python file, atomically."""
    write_whole(path, single_file_source(pipeline).encode())


def single_file_source(pipeline: str = "pipeline") -> str:
    """Source code of the single file of one pipeline; diffusers allows only one per file."""
    folder = Path(__file__).parents[1]
    modules = (*CORE, pipeline)
    sources = {name: (folder / f"{name}.py").read_text(encoding="utf-8") for name in modules}
    trees = {name: ast.parse(source) for name, source in sources.items()}
    licence = sources[pipeline][: sources[pipeline].index("\n\n")]
    imports = [node for tree in trees.values() for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    bodies = [_module_body(name, sources[name], trees[name]) for name in modules]
    return "\n\n\n".join([f"{licence}\n\n{import_block(imports)}", *bodies]) + "\n"


def import_block(nodes: list[ast.Import | ast.ImportFrom]) -> str:
    """Merge and sort the absolute imports among `nodes`, by ruff's isort rules."""
    plain: set[tuple[str, str | None]] = set()
    members: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            plain |= {(alias.name, alias.asname) for alias in node.names}
        elif node.level == 0 and node.module:
            members.setdefault(node.module, set()).update(
                alias.name + (f" as {alias.asname}" if alias.asname else "") for alias in node.names
            )
    lines = [(name, f"import {name}" + (f" as {alias}" if alias else ""), 0) for name, alias in plain]
    lines += [(name, _from_import(name, names), 1) for name, names in members.items()]
    standard = [line for line in lines if line[0].split(".")[0] in sys.stdlib_module_names]
    third_party = [line for line in lines if line not in standard]
    return "\n\n".join(
        "\n".join(text for _, text, _ in sorted(group, key=lambda line: (line[2], line[0].lower())))
        for group in (standard, third_party)
    )


def _from_import(module: str, names: set[str]) -> str:
    ordered = sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name.lower()))
    line = f"from {module} import {', '.join(ordered)}"
    if len(line) <= LINE_LENGTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in ordered) + ")"


def _module_body(name: str, source: str, tree: ast.Module) -> str:
    """Body of a module without docstring and imports, below a comment with its name."""
    lines = source.splitlines()
    last_import = max(node.end_lineno or 0 for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
    title = (ast.get_docstring(tree) or "").partition("\n")[0]
    heading = f"# {name}: {title}" if title else f"# {name}"
    return f"{heading}\n\n\n" + "\n".join(lines[last_import:]).strip("\n")
