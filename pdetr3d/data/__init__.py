"""Data, in five rooms; each imports only those before it: storage, index, labels, loading, augmentation."""
