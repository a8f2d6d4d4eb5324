"""Experiment tracking by MLflow; errors of tracking never stop the work."""
