"""Scores of boxes: the nuScenes devkit's, KITTI's, and the quality of pseudo labels."""
