"""Labels: who labeled which sample, clicks, regions to ignore, and the boxes that models write."""
