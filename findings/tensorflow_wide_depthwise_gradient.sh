#!/usr/bin/env bash
# tensorflow-cpu 2.21.0: the gradient of a depthwise kernel of five columns is not computed by oneDNN's depthwise code, that of
# three is.
#
# oneDNN 3.7 has kernels of its own for depthwise convolutions, jit_dw, also for the gradient with respect to their weights, but
# only up to three columns (jit_uni_dw_conv_kernel_utils.cpp). For wider ones it silently takes those of dense convolutions, with
# as many groups as channels, which are several times as slow. MobileNet v3 and the EfficientNets have both widths.
#
# Seen with ONEDNN_VERBOSE=1 on a processor with AVX-512: jit_dw:avx512_core for 3x3, jit:avx512_core for 5x5. Ends with 1 if
# that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0
cat >"$folder/gradient.py" <<'END'
import sys

import tensorflow as tf

width = int(sys.argv[1])
images = upstream = tf.ones((4, 28, 28, 64))
tf.nn.depthwise_conv2d_backprop_filter(images, (width, width, 64, 1), upstream, (1, 1, 1, 1), "SAME")
END
seen=()
for width in 3 5; do
    log=$(ONEDNN_VERBOSE=1 "$folder/venv/bin/python" "$folder/gradient.py" "$width" 2>/dev/null | grep exec,cpu,convolution)
    seen+=("${width}x$width: $(cut -d, -f7 <<<"$log")")
done
printf '%s\n' "${seen[@]}"
[[ ${seen[0]} == "3x3: jit"*dw* && ${seen[1]} == "5x5: "* && ${seen[1]} != *dw* ]]
