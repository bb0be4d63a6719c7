#!/usr/bin/env bash
# keras 3.15.1 on tensorflow-cpu 2.21.0: under a distribution strategy, Dropout drops the same units on every replica.
#
# A SeedGenerator is one variable, mirrored to all replicas with its value, and each of them draws from its own copy and counts
# it up alike (keras/src/random/seed_generator.py). So the first image of each replica loses the same units, and so on: a batch
# on eight GPUs has an eighth of the masks that it would have on one. One would expect masks of their own, since the replicas
# see different images.
#
# Seen with MirroredStrategy on two logical devices of a processor, three calls: equal masks in each call, other masks from call
# to call; set apart by hand, the copies stay apart, and so do the masks. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0 keras==3.15.1
cat >"$folder/masks.py" <<'END'
import keras
import numpy as np
import tensorflow as tf

(processor,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    dropout = keras.layers.Dropout(0.5)
    dropout.build((None, 64))


@tf.function
def drop():
    return strategy.run(lambda: dropout(tf.ones((1, 64)), training=True))


def masks():
    return [np.squeeze(mask) for mask in strategy.experimental_local_results(drop())]


calls = [masks() for _ in range(3)]
alike = [bool(np.array_equal(first, second)) for first, second in calls]
changes = not np.array_equal(calls[0][0], calls[1][0])
copies = strategy.experimental_local_results(dropout.seed_generator.state.value)
copies[1].assign(copies[1] + [1, 0])
apart = [bool(np.array_equal(*masks())) for _ in range(3)]
print("equal on both replicas:", alike, "- another mask in the next call:", changes, "- equal once set apart:", apart)
raise SystemExit(not (all(alike) and changes and not any(apart)))
END
"$folder/venv/bin/python" "$folder/masks.py" 2>"$folder/log" || { status=$?; tail -5 "$folder/log"; exit "$status"; }
