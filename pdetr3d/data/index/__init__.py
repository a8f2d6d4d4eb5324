"""The index of a dataset: one row per keyframe, made from the nuScenes tables and checked."""
