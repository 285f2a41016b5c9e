"""The tiny project as fixtures: fresh, finished, or finished and copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.tiny_project import build_project, run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the folder of a tiny project."""
    return build_project(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny project with a finished run, to look at and to copy."""
    folder = build_project(tmp_path_factory.mktemp("finished"))
    run(folder)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished project, to change."""
    shutil.copytree(finished, tmp_path / "project")
    return tmp_path / "project"
