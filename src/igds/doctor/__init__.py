"""Do this model, these SAEs and this cue fit the method: measured before a run."""
