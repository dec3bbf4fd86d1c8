"""What every operation that makes a network is decorated with."""

import torch

trainable = torch.inference_mode(False)
"""Makes networks outside of inference mode, wherever it is called: what is made in that mode can never be trained."""
