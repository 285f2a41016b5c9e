"""Language models: found, loaded as far as needed, and watched through forward hooks."""
