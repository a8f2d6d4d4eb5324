"""What changes a sample before a model sees it: augmentation in training, corruption in robustness studies."""
