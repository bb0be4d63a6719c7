"""Image search: the index, its near-duplicates and label issues, and deployment beside the model."""
