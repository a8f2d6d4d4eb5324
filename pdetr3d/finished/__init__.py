"""What works on finished runs: reports, labels, doctor, capacity plans, deployment. The core imports none of it."""
