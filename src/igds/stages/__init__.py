"""One thin file a verb: load, call, write."""
