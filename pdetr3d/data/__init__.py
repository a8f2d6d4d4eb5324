"""Data from files to batches: storage, index, labels, loading, augmentation. Each package imports only earlier ones."""
