"""The capacity plan (``pdetr3d plan``): measured costs, and estimates for clusters."""
