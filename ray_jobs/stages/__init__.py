"""What a run does: its stages, each finished once, and what they say of themselves."""
