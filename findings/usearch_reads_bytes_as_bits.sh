#!/usr/bin/env bash
# usearch 2.26.6: an index of dtype "u8" takes uint8 vectors for packed bits, and keeps one eighth of each, as zeros and ones.
#
# A row of uint8 may be numbers, as SIFT's, or bits as numpy.packbits packs them. The module goes by the type of the array alone
# (python/lib.cpp, numpy_string_to_kind), where uint8 means bits, also if the index says "u8" or is one of floats. So the first
# ndim bits, which are the first ndim / 8 numbers, are unpacked into the ndim numbers that are stored; the rest is dropped, and
# each query is read in the same way. Every vector finds itself at distance 0, which hides it. With dtype="u8" for add and for
# search too, the neighbours are right.
#
# Seen, of 500 random vectors of 128 numbers, for a "u8" and an "f32" index: all are stored as the bits of their first 16 numbers,
# and less than half of the 5 nearest are found; with dtype="u8" in the calls at least 95 of 100. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check usearch==2.26.6
cat >"$folder/nearest.py" <<'END'
import sys

import numpy as np
from usearch.index import Index

vectors = np.random.default_rng(0).integers(0, 256, (500, 128)).astype(np.uint8)
numbers = vectors.astype(np.int64)
distances = ((numbers[:50, None] - numbers[None]) ** 2).sum(-1)
nearest = distances.argsort(1)[:, :5]
bits = np.unpackbits(vectors[:, :16], axis=1)


def found(stored, **options):
    """Returns whether the index holds bits, and the share of the five nearest that it finds, the vector itself among them."""
    index = Index(ndim=128, metric="l2sq", dtype=stored)
    index.add(np.arange(500), vectors, **options)
    matches = index.search(vectors[:50], 5, **options)
    share = np.mean([len(set(row) & set(true)) / 5 for row, true in zip(matches.keys, nearest, strict=True)])
    return bool(np.array_equal(index.get(np.arange(500)), bits)), round(share.item(), 2)


as_seen = []
for stored in ("u8", "f32"):
    holds_bits, share = found(stored)
    print(f"index of {stored}: holds bits: {holds_bits}; found: {share}")
    as_seen.append(holds_bits and share < 0.5)
    holds_bits, share = found(stored, dtype="u8")
    print(f'index of {stored}, dtype="u8" in the calls: holds bits: {holds_bits}; found: {share}')
    as_seen.append(not holds_bits and share >= 0.95)
sys.exit(not all(as_seen))
END
"$folder/venv/bin/python" "$folder/nearest.py"
