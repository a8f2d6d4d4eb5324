"""A run's runner on Ray, and its records: MLflow, tables on the screen, ``report.json``, pictures."""
