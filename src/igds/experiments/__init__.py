"""Methods times budgets times seeds: the cells of an experiment, and what they show together."""
