"""Tools for finished runs: reports, labels, doctor, capacity plans, deployment. The core imports none of them."""
