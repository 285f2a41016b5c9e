"""What a feature does: screened by gradients, measured exactly, ordered, confirmed."""
