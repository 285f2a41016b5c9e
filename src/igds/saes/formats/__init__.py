"""SAE release formats, one file each: a folder in, the canonical SAE out."""
