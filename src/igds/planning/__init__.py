"""What a run will cost, before it is spent: tokens, arithmetic, memory and time a stage."""
