"""The start of a job: arguments, the run directory, Ray, and a refusal that leaves nothing behind."""
