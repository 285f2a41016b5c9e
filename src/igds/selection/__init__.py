"""From pool scores to the chosen rows: budgets, ties, tables."""
