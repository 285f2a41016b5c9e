"""SAEs made here: trained with sae_lens, imported nowhere else, or untrained as a control."""
