"""Files behind a URL: found, told apart from changed ones, and errors that name them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from igds.errors import RequestError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_CHECKSUMS = ("ETag", "etag", "Content-MD5", "md5Hash", "blob_id", "sha256", "CRC")
"""What file systems call a value that changes with the bytes."""
_TIMES = ("Last-Modified", "LastModified", "last_modified", "mtime", "modified", "created")
"""What they call the time of the last change."""
_QUERY = re.compile(r"([a-z][a-z0-9+.-]*://[^\s?'\"]*)\?(?:(?!::)[^\s'\"])*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a URL stands for."""

    fs: AbstractFileSystem
    """File system that holds the files."""
    folder: str | None
    """The folder that the URL names; None when it names a file or is a glob."""
    files: list[str]
    """Paths in the file system."""
    outer: str
    """The rest of a chained URL (`zip://a.jsonl::s3://...`), from the `::` on."""

    def name(self, path: str) -> str:
        """Return a file's URL; the query, which may hold a signature, is left out."""
        return public(self.fs.unstrip_protocol(path) + self.outer)


def is_url(path: str) -> bool:
    """Return whether a path is a URL of some file system."""
    return "://" in path


def find_remote(url: str, base: Path) -> Found:
    """Return the files of a URL: one file, all files below a folder, or those of a glob.

    Args:
        url: of any file system that fsspec knows, chained ones too.
        base: folder that a relative path at the end of a chain starts from.

    Raises:
        RequestError: a password in the URL, an unknown or missing file system, nothing there, or
            no connection.
    """
    *chain, last = url.split("::")
    for part in (*chain, last):
        web = urlsplit(part).scheme in ("http", "https", "ftp")
        if urlsplit(part).password is not None or (web and urlsplit(part).username is not None):
            raise RequestError(
                f"{urlsplit(part).scheme}://{urlsplit(part).hostname}: a password in a URL would "
                "be written into the run; give it through the environment or fsspec's own settings"
            )
    from fsspec.core import url_to_fs

    if chain and not is_url(last):
        last = str(base / Path(last).expanduser())
    with reached(url):
        fs, path = url_to_fs("::".join((*chain, last)))
        fs.invalidate_cache()
        # In a web address `?` begins the query.
        is_glob = any(mark in path for mark in ("*[" if speaks(fs, "http") else "*?["))
        folder = None
        if is_glob:
            files = list(fs.glob(path))
        elif fs.info(path)["type"] == "directory":
            folder, files = path.rstrip("/"), list(fs.find(path))
        else:
            files = [path]
    if not files:
        raise RequestError(f"{public(url)}: no file {'matches' if is_glob else 'below it'}")
    return Found(fs=fs, folder=folder, files=files, outer=url[len(url.partition("::")[0]) :])


def speaks(fs: AbstractFileSystem, protocol: str) -> bool:
    """Return whether a file system is that of a protocol."""
    own = fs.protocol
    return protocol in ((own,) if isinstance(own, str) else own)


def remote_version(fs: AbstractFileSystem, path: str) -> dict[str, str]:
    """Return what changes when a file does: its checksum, else the time of its last change.

    Empty when the file system gives neither.
    """
    info: dict[str, Any] = fs.info(path)
    for names in (_CHECKSUMS, _TIMES):
        given = {name: str(info[name]) for name in names if info.get(name) is not None}
        if given:
            return given
    return {}


@contextmanager
def reached(url: str) -> Iterator[None]:
    """Turn whatever a file system raises in the block into an error that names the URL.

    Raises:
        RequestError: always, when the block raises.
    """
    name = public(url)
    try:
        yield
    except RequestError:
        raise
    except ImportError as error:
        protocol = url.partition("://")[0]
        extra = {"https": "http", "s3a": "s3"}.get(protocol, protocol)
        raise RequestError(f"{name}: {error}: pip install 'fsspec[{extra}]'") from error
    except FileNotFoundError as error:
        # fsspec says so, too, when a server was not reached: the reason is the cause.
        why = f" ({public(str(error.__cause__))})" if error.__cause__ else ""
        raise RequestError(f"{name}: no such file or folder{why}") from error
    except Exception as error:
        words = f"{type(error).__name__}: {public(str(error))}"
        raise RequestError(f"{name} cannot be read: {words}") from error


def public(text: str) -> str:
    """Return a text without the queries of its web addresses, which may hold signatures."""
    return _QUERY.sub(r"\1", text)
