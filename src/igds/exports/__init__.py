"""Rows out: the chosen rows as a file that a trainer reads."""
