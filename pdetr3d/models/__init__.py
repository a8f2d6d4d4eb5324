"""Models: layers, and the networks of teacher and student."""
