"""The plug into Ray: streams of samples, training, batch inference, and what watches over them."""
