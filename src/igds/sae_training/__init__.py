"""Training SAEs on the blocks of a model with sae_lens: the only importer of that library."""
