#!/usr/bin/env bash
# kfp 2.17.3, kfp.local: within a dsl.ParallelFor an input that comes from another task's output is given the loop's item.
#
# Valid by KFP's own rules, and right on a cluster: there the task gets the other task's output. On one machine it gets the item,
# without a word where the types agree. kfp/local/orchestrator/task_spec_utils.py, create_parameter_loop_iteration_task_spec,
# puts the item in the place of every input of the loop that is a task_output_parameter.
#
# Seen: ['item one', 'item two'] where ['from before', 'from before'] was asked for. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kfp==2.17.3
cat >"$folder/loop.py" <<'END'
import pathlib
import sys

from kfp import dsl, local

FOLDER = pathlib.Path(sys.argv[1])


@dsl.component(install_kfp_package=False)
def before() -> str:
    return "from before"


@dsl.component(install_kfp_package=False)
def items() -> list[str]:
    return ["item one", "item two"]


@dsl.component(install_kfp_package=False)
def note(item: str, given: str, folder: str):
    import pathlib

    (pathlib.Path(folder) / item).write_text(given)


@dsl.pipeline(name="loop")
def loop(folder: str):
    other = before()
    with dsl.ParallelFor(items().output) as item:
        note(item=item, given=other.output, folder=folder)


local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(FOLDER / "root"))
(FOLDER / "given").mkdir()
loop(folder=str(FOLDER / "given"))
seen = [path.read_text() for path in sorted((FOLDER / "given").iterdir())]
print("seen:", seen)
sys.exit(seen != ["item one", "item two"])
END
PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" "$folder/loop.py" "$folder" 2>&1 | grep -o "seen:.*"
