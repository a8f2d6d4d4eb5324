"""From a row of the index and its labels to the arrays of a batch. The only readers of sensor files in training."""
