"""The review: whether a retrained model is accepted."""
