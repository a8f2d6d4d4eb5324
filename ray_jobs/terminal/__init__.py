"""A job's output: lines on the screen, log files, and the time that each phase takes."""
