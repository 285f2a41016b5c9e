"""Statistics of paired deltas, ranks and separations: numpy in, numpy out."""

LEVEL = 0.95
"""Coverage of every interval."""
