"""What a person sees of a job: lines on the screen, log files, the time each phase takes."""
