"""The pipeline, without Ray: the graph of a run's stages, their functions, and ``execute``, which runs them."""
