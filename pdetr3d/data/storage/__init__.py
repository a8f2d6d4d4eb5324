"""Files: atomic writing, digests, tables mapped into memory, layouts of LiDAR files. Nothing here knows a dataset."""
