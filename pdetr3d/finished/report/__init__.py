"""Reports: the pages of runs and searches, and comparisons of runs."""
