"""Checks of a run directory for faults, with advice (``pdetr3d doctor``)."""
