"""Searches: spaces of variants and config keys, trials on Ray Tune, and their results."""
