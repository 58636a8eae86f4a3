"""What `fit` does, step by step."""
