"""Programs that were written before the library was divided into rooms still run."""

import subprocess
import sys

import pytest

from kfp_vision import export, records, repository
from kfp_vision.dataset import images
from kfp_vision.prediction.export import write_saved_model
from kfp_vision.records.records_folder import read_examples
from kfp_vision.repository.version import VERSION_FILE


def test_former_names_lead_to_the_names_of_today_and_warn():
    with pytest.warns(DeprecationWarning, match=r"kfp_vision\.pictures\.checked is now kfp_vision\.dataset\.images\.validate_"):
        from kfp_vision.pictures import checked
    with pytest.warns(DeprecationWarning, match=r"kfp_vision\.pictures\.Refused is now kfp_vision\.dataset\.images\.Rejected"):
        from kfp_vision.pictures import Refused
    assert (checked, Refused) == (images.validate_image, images.Rejected)
    with pytest.warns(DeprecationWarning, match=r"export\.write_saved_model is now kfp_vision\.prediction\.export\."):
        assert export.write_saved_model is write_saved_model
    with pytest.warns(DeprecationWarning, match=r"records\.read is now kfp_vision\.records\.records_folder\.read_examples"):
        assert records.read is read_examples
    with pytest.warns(DeprecationWarning, match=r"repository\.ABOUT_FILE is now kfp_vision\.repository\.version\.VERSION_FILE"):
        assert repository.ABOUT_FILE is VERSION_FILE


def test_the_warning_names_the_line_of_the_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("from kfp_vision.pictures import Refused, checked\nfrom kfp_vision import records\nrecords.read\n")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    said = [line for line in done.stderr.splitlines() if "DeprecationWarning" in line]
    assert [line.partition(": DeprecationWarning: ")[0] for line in said] == [f"{program}:1", f"{program}:1", f"{program}:3"]


@pytest.mark.parametrize("module", ["pictures", "export", "records", "repository"])
def test_a_name_that_never_was_is_an_attribute_error(module):
    program = f"import kfp_vision.{module}\nkfp_vision.{module}.nothing"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith(f"AttributeError: module 'kfp_vision.{module}' has no attribute 'nothing'\n")
