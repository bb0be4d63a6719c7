"""Benchmarks: each module compares something of ours with a peer in one run; a ratio above 1 means ours is better."""

import kfp_vision  # noqa: F401  before any benchmark imports TensorFlow: it says how TensorFlow is to start
