"""Labels: roles of samples, clicks, regions to ignore, and the boxes that models write."""
