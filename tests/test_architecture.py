"""Imports point one way; data/ and nn/ never meet; no torch, no TensorFlow; importing the package is quick."""

import ast
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wallwm_jax"

ALLOWED = {
    "core": {"core"},
    "nn": {"core", "nn"},
    "data": {"core", "data"},
    "optim": {"core", "optim"},
    "objectives": {"core", "objectives"},
    "models": {"core", "nn", "models"},
    "simulate": {"core", "data", "simulate"},
    "train": {"core", "nn", "data", "optim", "objectives", "models", "train"},
    "plan": {"core", "nn", "data", "optim", "objectives", "models", "train", "plan"},
    "infer": {"core", "nn", "data", "optim", "objectives", "models", "train", "infer"},
    "evaluate": {"core", "nn", "data", "optim", "objectives", "models", "train", "infer", "evaluate", "simulate"},
}
ALLOWED["cli"] = {*ALLOWED, "cli"}
FORBIDDEN_EVERYWHERE = {"torch", "tensorflow", "diffusers", "transformers", "experiments", "data_specs", "tests"}


def imported_modules(path: pathlib.Path) -> set[str]:
    """Absolute names of everything a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def source_files() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_imports_point_one_way(folder):
    """A folder imports itself and what lies below it, nothing else of the package."""
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        inside = {name.split(".")[1] for name in imported_modules(path) if name.startswith("wallwm_jax.")}
        unexpected = (inside & {p.name for p in PACKAGE.iterdir() if p.is_dir()}) - ALLOWED[folder]
        assert not unexpected, f"{path.relative_to(ROOT)} imports {sorted(unexpected)}"


def test_every_folder_has_a_rule():
    """A new folder must be placed in the layering."""
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ALLOWED)


def test_no_forbidden_imports():
    """Neither torch nor TensorFlow, nor the folders that stand above the package."""
    for path in source_files():
        found = {name.split(".")[0] for name in imported_modules(path)} & FORBIDDEN_EVERYWHERE
        assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


def test_data_imports_neither_jax_nor_flax():
    """Loader workers must start without an accelerator runtime."""
    for path in sorted((PACKAGE / "data").rglob("*.py")):
        found = {name.split(".")[0] for name in imported_modules(path)} & {"jax", "flax", "optax", "orbax"}
        assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


def test_flax_is_known_to_nn_and_models_alone():
    """Layers are Linen; everything else sees plain trees and functions."""
    for path in source_files():
        folder = path.relative_to(PACKAGE).parts[0]
        if any(name.split(".")[0] == "flax" for name in imported_modules(path)):
            assert folder in ("nn", "models"), path.relative_to(ROOT)


def test_import_is_quick_and_light():
    """`import wallwm_jax` takes under 2 s and pulls in neither torch nor tensorflow."""
    code = "import sys, wallwm_jax; print(sorted({'torch', 'tensorflow', 'jax'} & set(sys.modules)))"
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"
    assert time.monotonic() - started < 2.0
