"""Deployment to a model repository or to KServe."""
