"""Statistics of paired deltas, ranks and separations: numpy in, numpy out."""
