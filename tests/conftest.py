"""Checks every tensor shape and type of igds at run time, in every test."""

from jaxtyping import install_import_hook

install_import_hook("igds", "beartype.beartype")
