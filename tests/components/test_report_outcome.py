import contextlib
import io
import warnings

import pytest
from kfp import dsl, local

from kfp_vision import components
from kfp_vision.pipelines.ending import outcome_reported


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("sample", "the run succeeded"),
        ("/nowhere", "the run failed\n    see the end of the failed stage's log for the reason"),
    ],
)
def test_reports_how_the_run_ended(source, message, tmp_path):
    @dsl.pipeline(name="ending")
    def pipeline_with_exit_handler():
        with dsl.ExitHandler(outcome_reported()):
            components.fingerprint_images(images_uri=source, leave_out_uri="", labels_uri="", labels="one", advanced={})

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path))
    stdout = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(stdout), contextlib.suppress(RuntimeError):
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom", RuntimeWarning)
        pipeline_with_exit_handler()
    assert f"    {message}\n" in stdout.getvalue()
