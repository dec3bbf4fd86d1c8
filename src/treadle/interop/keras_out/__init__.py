"""Writing Keras: `parts.py` takes a network apart into what stands upon each other, `layers.py` makes layers of it."""
