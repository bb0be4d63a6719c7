#!/usr/bin/env bash
# kfp 2.17.3, kfp.local: tasks that do not depend on each other run one after another, in an order that changes from run to run.
#
# It is neither the order in which the pipeline names them nor that of the YAML. kfp/local/graph_utils.py, topological_sort,
# sorts the dependencies of each task "to force deterministic result", but walks the tasks as the protobuf map of the pipeline
# gives them, whose order differs from process to process, with PYTHONHASHSEED fixed as well. So what one of them leaves outside
# its outputs, the next may find or not.
#
# Seen: four different orders in four runs of the same pipeline. Ends with 1 if all four are the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kfp==2.17.3
cat >"$folder/order.py" <<'END'
import pathlib
import sys

from kfp import dsl, local

FILE = pathlib.Path(sys.argv[1])


@dsl.component(install_kfp_package=False)
def note(name: str, file: str):
    with open(file, "a") as notes:
        notes.write(name + " ")


@dsl.pipeline(name="order")
def order(file: str):
    for name in ("first", "second", "third", "fourth", "fifth"):
        note(name=name, file=file).set_display_name(name)


local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(FILE.parent / "root"))
order(file=str(FILE))
END
for run in 1 2 3 4; do
    PYTHONHASHSEED=0 PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" "$folder/order.py" "$folder/run$run" >"$folder/log" 2>&1 ||
        { tail -5 "$folder/log"; exit 2; }
    echo "$(cat "$folder/run$run")"
done | tee "$folder/seen"
[ "$(sort -u "$folder/seen" | wc -l)" -gt 1 ]
