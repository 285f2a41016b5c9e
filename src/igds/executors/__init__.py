"""Where shards run: worker processes that import their work by name and return Arrow tables."""
