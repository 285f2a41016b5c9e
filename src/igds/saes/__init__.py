"""Sparse autoencoders: one canonical form, read from and written to release formats."""
