"""Registers the small network in every Python process with this folder on its path, see `support.small_network`."""

from support import small_network

from kfp_vision.networks import NETWORKS

NETWORKS[small_network.NAME] = small_network.SMALL
