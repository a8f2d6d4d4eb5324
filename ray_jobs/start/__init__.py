"""The start of a job: its options, its run directory, Ray, and the cleanup after refused input."""
