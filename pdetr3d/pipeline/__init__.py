"""The pipeline without Ray: the graph of its stages, their digests."""
