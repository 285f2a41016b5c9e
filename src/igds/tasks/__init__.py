"""What the model is asked to do, and how an output is judged."""
