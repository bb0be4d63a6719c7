"""Engines that compute scores and embeddings from images: decoding without TensorFlow."""
