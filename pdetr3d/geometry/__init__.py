"""Geometry without knowledge of datasets: rigid transforms, boxes, cameras, regions, overlaps and suppression."""
