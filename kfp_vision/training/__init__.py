"""Fine-tuning a network on TFRecord files, and hyperparameter sweeps."""
