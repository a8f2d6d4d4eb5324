"""The index: one row for each keyframe of a dataset in nuScenes format, made once from its tables."""

from pdetr3d.data.index.index import Index

__all__ = ["Index"]
