"""What is on disk of a run: its folder, its lock, its stages; alone decides what is done."""
