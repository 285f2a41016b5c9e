"""Rows in: sources, templates, the index, overlap and splits."""
