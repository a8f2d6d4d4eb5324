"""Labels of finished runs: report, export, and the best mix of boxes and clicks for a budget."""
