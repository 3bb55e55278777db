"""Datasets and their loaders."""
