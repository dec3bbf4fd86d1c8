"""What is on disk: models, states and checkpoints. No file runs code."""
