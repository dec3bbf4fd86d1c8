"""What one call does on a GPU: kernels and their arguments, a loop as one node of PyTorch's autograd."""
