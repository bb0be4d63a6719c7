"""Evaluation of a model, and the gate before deployment."""
