"""Time, applied from outside: over sequences, live, in both directions, in place of torch.nn's modules."""
