"""Training on one process or many: tasks, loop, plan of samples, checkpoints, and the run directory; without Ray."""
