"""`igds saes`: list public sparse autoencoders, convert one, train some, make controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro
from tyro.conf import Positional, arg

from igds.cli.command import Command, print_table
from igds.errors import RequestError

if TYPE_CHECKING:
    from igds.saes.registry import Entry


@dataclass(frozen=True, kw_only=True)
class List:
    """Show the registry of the installed sae-lens: releases, or the SAEs of one."""

    overridable: ClassVar[bool] = False

    model: str | None = None
    """Only releases for this model, as gemma-2-2b; part of the name is enough."""
    release: str | None = None
    """Show the SAEs of this release, with the id that `saes.id` takes."""

    def execute(self, overrides: Sequence[str]) -> None:  # noqa: ARG002
        """Print one line a release, or one an SAE; needs no network.

        Raises:
            RequestError: sae-lens is not installed, or nothing matches.
        """
        from igds.saes.registry import find_releases

        releases = find_releases(self.model, self.release)
        if self.release is None:
            print_table(
                ("release", "model", "SAEs", "igds reads", "otherwise"),
                [(name, *_summary(entries)) for name, entries in releases.items()],
            )
            return
        shown = [
            (one.id, one.l0, one.neuronpedia_id, one.unsupported or f"reads it: {one.format}")
            for one in releases[self.release]
        ]
        print_table(("id", "l0", "neuronpedia", "igds"), shown)


def _summary(entries: Sequence[Entry]) -> tuple[str, int, int, str | None]:
    """Return model, SAEs, how many of them igds reads, and why not the others."""
    reasons = dict.fromkeys(one.unsupported for one in entries if one.unsupported)
    usable = sum(one.unsupported is None for one in entries)
    return entries[0].model, len(entries), usable, "; ".join(reasons) or None


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write an SAE of any format as a SAELens folder, which igds and sae_lens read."""

    overridable: ClassVar[bool] = False

    sae: Positional[str]
    """Local folder or file, or a release of the registry (see `igds saes list`)."""
    output: Positional[Path]
    """Folder to make."""
    id: str | None = None
    """SAE of the release."""
    hub: str | None = None
    """Hub repository, owner/name, that holds the path."""
    layer: int | None = None
    """Decoder block, where neither the files nor their folder name it."""
    revision: str | None = None
    """Branch, tag or commit of the repository or of the release's."""
    input_scale: float | None = None
    """Factor of the input that a SAELens folder with normalize_activations
    expected_average_only_in does not hold: sqrt(d_in) / mean norm."""

    def execute(self, overrides: Sequence[str]) -> None:  # noqa: ARG002
        """Read, write, and print what was made.

        Raises:
            RequestError: the output is there already, or the SAE cannot be read.
        """
        from igds.config import schema
        from igds.saes.formats.saelens import write_saelens
        from igds.saes.load import find_sae, read_sae

        if self.output.exists():
            raise RequestError(f"{self.output} is there already: name another folder")
        config = schema.SAE(
            path=self.sae if self.id is None else None,
            release=None if self.id is None else self.sae,
            id=self.id,
            hub=self.hub,
            layer=self.layer,
            revision=self.revision,
            input_scale=self.input_scale,
        )
        spec = find_sae(config, Path())
        sae = read_sae(spec)
        metadata = {
            "converted_from": spec.source,
            "hook_name": f"blocks.{sae.layer}.hook_resid_post",
            "prepend_bos": sae.prepend_bos,
            "l0": sae.published_l0,
        }
        write_saelens(sae, self.output, metadata=metadata)
        print(
            f"{self.output}: L{sae.layer}, {sae.activation}, {sae.d_in} -> {sae.d_sae}, "
            f"activations {sae.unit}"
        )


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train SAEs on blocks of a model.

    Any setting can follow the config, as --l0 64 or --sources.0.tokens 100000; docs/saes.md lists
    them all.
    """

    overridable: ClassVar[bool] = True

    config: Annotated[Positional[Path], arg(metavar="CONFIG")]
    """YAML file that says which blocks, on which text."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Train the SAEs that the config names and print their quality."""
        from igds.progress import make_progress
        from igds.sae_training.train import train_saes

        quality = train_saes(self.config, overrides, make_progress())
        print_table(list(quality[0]), [list(row.values()) for row in quality])


@dataclass(frozen=True, kw_only=True)
class Untrained:
    """Write an untrained double of each SAE of a run: random directions that fire as often.

    Index and recall are run first if they are missing. Any setting can follow the config; see
    docs/saes.md for what is matched.
    """

    overridable: ClassVar[bool] = True

    config: Annotated[Positional[Path], arg(metavar="CONFIG")]
    """YAML file with the settings of the run."""
    output: Positional[Path]
    """Folder to make, with a folder L<layer> for each SAE."""
    directions_seed: int = 0
    """Root of the directions; `seed` stays the run's."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Write the doubles, and print how well they match and the `saes` that names them.

        Raises:
            RequestError: the output is there already, or the run cannot be recalled.
        """
        from igds.config.load import load_config
        from igds.progress import make_progress

        file = load_config(self.config, overrides)
        from igds import pipeline

        run = pipeline.run(file, until="recall", progress=make_progress())
        from igds.sae_training.untrained import write_untrained

        recall = run.folder.path / "recall"
        rows = write_untrained(file, recall, self.output, self.directions_seed)
        print_table(list(rows[0]), [list(row.values()) for row in rows])
        print("saes:")
        for row in rows:
            print(f"  - path: {self.output.resolve()}/L{row['layer']}")


@dataclass(frozen=True, kw_only=True)
class Saes:
    """List public sparse autoencoders, convert one, train some, or make untrained controls."""

    overridable: ClassVar[bool] = True

    action: Annotated[
        Annotated[List, tyro.conf.subcommand("list", prefix_name=False)]
        | Annotated[Convert, tyro.conf.subcommand("convert", prefix_name=False)]
        | Annotated[Train, tyro.conf.subcommand("train", prefix_name=False)]
        | Annotated[Untrained, tyro.conf.subcommand("untrained", prefix_name=False)],
        tyro.conf.arg(name=""),
    ]
    """What to do."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Do it.

        Raises:
            RequestError: a word is not known.
        """
        action: Command = self.action
        if overrides and not action.overridable:
            name = type(action).__name__.lower()
            raise RequestError(f"{overrides[0]} is not an option of igds saes {name}")
        action.execute(overrides)
