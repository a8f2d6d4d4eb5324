"""Measurements of speed, memory and quality (``make bench``). They take minutes to hours, so `make test` runs none."""
