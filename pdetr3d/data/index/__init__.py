"""The index of a dataset: from the nuScenes tables to one row per keyframe, checked and counted."""
