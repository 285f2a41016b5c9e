from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "igds"

LAYERS = (
    "errors", "progress", "cache", "hub", "features", "rows", "stats", "config", "runs",
    "executors", "data", "exports", "saes", "models", "tasks", "reading", "interventions",
    "methods", "selection", "finetuning", "evaluation", "sae_training", "doctor", "planning",
    "reporting", "stages", "pipeline", "stability", "experiments", "cli",
)  # fmt: skip
"""Low to high: a module imports from its own package and from those before it."""

LAZY_EXPORTS = SRC / "__init__.py"
"""The public names, imported on first use: the one module above all layers."""

HOOKS = {"register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
         "register_backward_hook", "register_hook"}  # fmt: skip


def modules() -> Iterator[tuple[str, Path, ast.Module]]:
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, path, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module, module: str, path: Path) -> Iterator[str]:
    """Yield every module named by an import anywhere in the file, relative ones resolved."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                yield full if is_module(full) else origin


def is_module(name: str) -> bool:
    path = SRC.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def layer(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "igds" and len(parts) > 1 else None


def graph() -> dict[str, set[str]]:
    return {
        name: {found for found in imports(tree, name, path) if found.startswith("igds")}
        for name, path, tree in modules()
    }


def test_every_module_has_a_layer() -> None:
    found = {layer(name) for name in graph()} - {None}
    assert found <= set(LAYERS)


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in SRC.rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_imports_go_down() -> None:
    upward = [
        f"{name} imports {found}"
        for name, targets in graph().items()
        if layer(name) is not None
        for found in targets
        if layer(found) is not None
        and LAYERS.index(layer(found) or "") > LAYERS.index(layer(name) or "")
    ]
    assert upward == []


def test_imports_have_no_cycle() -> None:
    edges = graph()
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name in finished:
            return
        for target in edges.get(name, set()):
            visit(target, (*trail, name))
        finished.add(name)

    for name in edges:
        visit(name, ())


def test_a_stage_imports_no_stage() -> None:
    from igds.pipeline import STAGES

    names = {f"igds.stages.{stage}" for stage in (*STAGES, "verify")}
    edges = graph()
    assert [(name, names & edges[name]) for name in names if names & edges[name]] == []


def test_only_executors_import_ray() -> None:
    users = [
        name
        for name, path, tree in modules()
        if any(found.split(".")[0] == "ray" for found in imports(tree, name, path))
    ]
    assert [name for name in users if layer(name) != "executors"] == []


def test_only_capture_and_edit_register_hooks() -> None:
    users = {
        name
        for name, _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in HOOKS
    }
    assert users == {"igds.models.capture", "igds.models.edit"}


def test_no_pickle() -> None:
    pickles = {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
    users = [
        name
        for name, path, tree in modules()
        if pickles & {found.split(".")[0] for found in imports(tree, name, path)}
    ]
    assert users == []


def test_files_are_short() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path, _ in modules()}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


@pytest.mark.parametrize("module", ["igds", "igds.config.load", "igds.cli.main", "igds.pipeline"])
def test_import_is_light(module: str) -> None:
    heavy = "torch", "transformers", "datasets", "matplotlib", "sae_lens", "trl", "peft"
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist() -> None:
    import igds

    for name in igds.__all__:
        assert getattr(igds, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        igds.nothing  # noqa: B018
