"""Each module measures one thing against a peer, in one run, and gives ratios: above 1, ours is better."""
