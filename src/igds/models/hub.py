"""Models on the Hugging Face Hub: one commit of one repository, in the Hub's own cache."""

from __future__ import annotations

from pathlib import Path

from igds.errors import RequestError

_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
_SKIP = ("*/*", "consolidated*")


def snapshot(name: str, revision: str | None, *, code: bool = False) -> tuple[Path, str]:
    """Return the local folder of a Hub model and the commit it holds.

    Raises:
        RequestError: no such model or revision, no right to it, or it cannot be reached and is
            not in the cache.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    files = [*_FILES, "*.py"] if code else [*_FILES]
    where = f"model.id {name!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=files, ignore_patterns=[*_SKIP]
        )
    except hub.GatedRepoError as error:
        raise RequestError(
            f"{where} is gated: accept its terms on the Hub, then `hf auth login`"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise RequestError(f"{where}: the Hub has no such branch, tag or commit") from error
    except (hub.RepositoryNotFoundError, hub.HFValidationError) as error:
        raise RequestError(
            f"{where} is neither a local folder, a .gguf file nor a model on the Hub"
        ) from error
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, hub.HfHubHTTPError) as error:
        raise RequestError(
            f"{where} is not on this machine and the Hub cannot be reached: {error}"
        ) from error
    return Path(folder), Path(folder).name
