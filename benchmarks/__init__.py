"""Each module measures one thing against a peer, in one run, and gives ratios: above 1, ours is better."""

import kfp_vision  # noqa: F401  before any benchmark imports TensorFlow: it says how TensorFlow is to start
