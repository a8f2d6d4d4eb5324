"""The connection to Ray: streams of samples, training, batch inference, checkpoints to continue from, supervision."""
