"""What a model in use has answered: a sample of it is collected, read again, and compared with what the model knows."""
