"""Changes of samples after loading: augmentation and GT sampling in training, corruption in robustness studies."""
