#!/usr/bin/env bash
# keras 3.15.1 on tensorflow-cpu 2.21.0: with gradient_accumulation_steps, use_ema averages at every batch, not at every update.
#
# The documentation says that model and optimizer variables are updated every gradient_accumulation_steps steps only. The weights
# are, but the average moves after each batch, also while the weights stand still (base_optimizer.py, _backend_apply_gradients). So
# ema_momentum is in effect raised to the power of gradient_accumulation_steps: with 8, an average over about 100 updates (0.99) is
# one over about 13. As fit leaves the average in the model, the same updates end in another model than with large batches.
#
# Seen, of 20 updates by 0.1 each: without an average 2.00 for batches of 8, and 2.00 for eight batches of 1 per update; with one
# of momentum 0.9, 1.22 and 1.84. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0 keras==3.15.1
cat >"$folder/average.py" <<'END'
import sys

import keras
import numpy as np


def weight(batch_size, **options):
    """Returns the only weight of a model after 20 updates; its gradient is always -1."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.1, **options), lambda _, outputs: -keras.ops.mean(outputs, -1))
    model.fit(np.ones((160, 1)), np.ones((160, 1)), batch_size=batch_size, verbose=0)
    assert int(model.optimizer.iterations) == 20
    return model.get_weights()[0].item()


accumulated = {"batch_size": 1, "gradient_accumulation_steps": 8}
seen = [
    weight(8),
    weight(**accumulated),
    weight(8, use_ema=True, ema_momentum=0.9),
    weight(**accumulated, use_ema=True, ema_momentum=0.9),
]
print("seen:", *(f"{value:.2f}" for value in seen))
sys.exit([round(value, 2) for value in seen] != [2.0, 2.0, 1.22, 1.84])
END
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/average.py"
