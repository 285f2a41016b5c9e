"""Reading a model on prompts: residuals and feature activations at the read position."""
