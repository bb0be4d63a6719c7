#!/usr/bin/env bash
# keras 3.15.1 on tensorflow-cpu 2.21.0: AugMix draws its operations once for a whole training, and its seed does not fix them.
#
# Its documentation says that the images of one batch share the operations, that the layer is safe inside tf.data, and that seed
# makes a random seed. But it draws them with Python's random.choice (aug_mix.py, get_random_transformation), which runs only while
# TensorFlow traces the function. So in Dataset.map and in fit all batches of all epochs get the same at most nine operations, some
# of them maybe none; only their strengths change. RandAugment draws in the graph.
#
# Seen: 9 draws per call in 50 calls outside a graph, 9 in all for two passes over 50 batches, 9 for a fit of 40 steps; two layers
# with seed=1 differ, and agree if Python's random is seeded before each. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0 keras==3.15.1
cat >"$folder/augmix.py" <<'END'
import random
import sys

import keras
import numpy as np
import tensorflow as tf

images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)
choice, drawn = random.choice, []


def noted_choice(choices):
    drawn.append(choice(choices))
    return drawn[-1]


def draws(action):
    drawn.clear()
    action()
    return len(drawn)


def pass_over(dataset):
    assert sum(1 for _ in dataset) == 50


def augmented(kind, python_seed=None):
    if python_seed is not None:
        random.seed(python_seed)
    return np.asarray(kind(seed=1)(images, training=True))


random.choice = noted_choice
layer = keras.layers.AugMix(seed=1)
alone = draws(lambda: [layer(images, training=True) for _ in range(50)])


def both_passes():
    batches = tf.data.Dataset.from_tensors(images).repeat(50).map(lambda batch: layer(batch, training=True))
    pass_over(batches)
    pass_over(batches)


mapped = draws(both_passes)
print("in tf.data:", drawn)
model = keras.Sequential([keras.Input((32, 32, 3)), layer, keras.layers.Flatten(), keras.layers.Dense(1)])
model.compile("sgd", "mse")
fitted = draws(lambda: model.fit(images, np.zeros((4, 1)), batch_size=1, epochs=10, verbose=0))
print("in fit:", drawn)
random.choice = choice

augmix, other = keras.layers.AugMix, keras.layers.RandAugment
random.seed(0)
alike = [
    np.array_equal(augmented(augmix), augmented(augmix)),
    np.array_equal(augmented(augmix, 1), augmented(augmix, 1)),
    np.array_equal(augmented(other), augmented(other)),
]
print("draws:", alone, mapped, fitted)
print("same seed, same images: AugMix", alike[0], "- with Python's random seeded", alike[1], "- RandAugment", alike[2])
sys.exit((alone, mapped, fitted, alike) != (450, 9, 9, [False, True, True]))
END
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/augmix.py"
