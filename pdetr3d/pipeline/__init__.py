"""What a run does, without Ray: the graph of its stages, their bodies, and the walk over it (``execute``)."""
