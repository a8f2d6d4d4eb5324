"""Importers of foreign datasets, and of CenterPoint weights; datasets are written in nuScenes format."""
