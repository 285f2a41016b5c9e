"""Methods that score pool rows: the feature-resonant score and its rivals."""
