"""Losses: matching, the terms of teacher and student, and the masks of point guidance."""
