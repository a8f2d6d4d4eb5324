"""Checks of the nuScenes tables: fields, names, plausible values and times."""
