"""Files: written atomically, digested, mapped into memory; the layouts of LiDAR files. It knows nothing of datasets."""
