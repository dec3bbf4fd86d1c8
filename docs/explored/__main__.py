"""Train the networks of the explorer again."""

from explored import train

train()
