"""Synthetic people, features, losses, metrics, training and evaluation. Its modules are started with `python -m`."""
