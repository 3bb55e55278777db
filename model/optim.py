"""Optimizers and schedulers of your own: add them here, name them like those of torch.

A class like those of torch.optim, or a function that makes one, takes the parameters first; a
scheduler the optimizer.
"""
