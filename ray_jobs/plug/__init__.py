"""The connection to Ray: streams of samples, training, resuming, batch inference, supervision."""
