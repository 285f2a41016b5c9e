"""Files that are no configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from igds.config.load import load_config
from igds.errors import RequestError


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"name: [1", "line 1"),
        (b"- 1", "holds no settings"),
        (b"", "holds no settings"),
        (b"a: \xff", "not UTF-8 at byte 3"),
        (b"a: 1\n---\nb: 2", "another document"),
        (b"a: !!python/object:os.system x", "python/object"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "igds.yaml"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=word) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(RequestError, match="cannot be read"):
            load_config(path)
