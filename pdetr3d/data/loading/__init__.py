"""Loading: makes the arrays of a batch from rows of the index and labels. Training reads sensor files only here."""
