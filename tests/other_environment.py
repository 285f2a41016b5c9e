"""An environment of its own with one package that a test writes."""

from __future__ import annotations

import venv
from pathlib import Path


def environment(folder: Path, module: str, package: str, source: str | None) -> Path:
    """Return the Python of a new environment in `folder/<module>`.

    Args:
        folder: where.
        module: name of the package as it is imported.
        package: the same as pip calls it; its version is 9.9.
        source: its code; None leaves it out.
    """
    venv.create(folder / module, symlinks=True)
    (packages,) = (folder / module / "lib").glob("python*/site-packages")
    if source is not None:
        (packages / f"{module}.py").write_text(source)
        facts = packages / f"{package.replace('-', '_')}-9.9.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.9\n")
        (facts / "top_level.txt").write_text(f"{module}\n")
    return folder / module / "bin" / "python"
