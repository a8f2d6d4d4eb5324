"""Searches: search spaces, their trials on Ray Tune, and the results of the trials."""
