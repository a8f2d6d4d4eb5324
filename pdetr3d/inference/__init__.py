"""Trained models on new data: boxes of points, files, samples and clicks."""
