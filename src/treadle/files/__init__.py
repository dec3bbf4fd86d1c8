"""What is on disk: models, states, checkpoints, and how files are written so that none is ever half there. No file runs
code.
"""
