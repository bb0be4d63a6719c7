"""The pages list every field, pipeline, stage and setting, their links work, and Sphinx builds them without a warning."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram
from support.page_commands import PAGES, ROOT

from kfp_vision import components
from kfp_vision.cli import run
from kfp_vision.core import advanced
from kfp_vision.networks import NETWORKS
from kfp_vision.pipelines import PIPELINES
from kfp_vision.pipelines.reference import format_default
from kfp_vision.serving import app, inference, middleware, model, telemetry
from kfp_vision.storage.base import SCHEMES

REFERENCE = ROOT / "docs" / "reference"
MAX_README_BYTES = 9 * 1024
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")
REJECTIONS = ("InvalidInput", "Overloaded", "NotLoaded", "NotIndexed", "NotExplained")
VERSIONS = ("kfp", "tensorflow-cpu", "keras", "kserve")


def read(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def table_rows(text: str) -> dict[str, list[str]]:
    """Returns the rows of the tables in a text whose first cell is a name, by that name."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in cells}


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def anchors(page: Path) -> set[str]:
    """Returns the anchors that a code host gives the headings of a page."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {NOT_IN_ANCHORS.sub("", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= MAX_README_BYTES


@pytest.mark.parametrize("name", PIPELINES)
def test_the_fields_of_each_pipeline_are_listed_with_their_defaults(name):
    rows = table_rows(section(read("reference/fields.md"), name))
    assert sorted(rows) == sorted(run.form_fields(PIPELINES[name]))
    assert {field: row[2] for field, row in rows.items()} == {
        field: format_default(default) for field, default in run.form_defaults(PIPELINES[name]).items()
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_the_readme_names_every_pipeline(name):
    assert f"`{name}`" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_stage_is_described():
    headings = re.findall(r"^## (\w+)$", read("reference/stages.md"), re.MULTILINE)
    assert sorted(headings) == sorted(components.__all__)


def test_every_field_of_advanced_is_listed_with_its_default():
    rows = table_rows(read("reference/advanced.md").partition("## Optimizers")[0])
    expected = {name: format_default(default) for name, default in advanced.ADVANCED_DEFAULTS.items()}
    assert {name: row[1] for name, row in rows.items()} == expected
    assert [name for name, row in rows.items() if not row[0]] == []


def test_every_network_is_listed():
    cells = re.findall(r"^\| (`.*?) \|", read("reference/networks.md").partition("## Which one")[0], re.MULTILINE)
    listed = [name for cell in cells for name in cell.split(", ")]
    assert sorted(name.strip("`") for name in listed if name != "`network`") == sorted(NETWORKS)


def test_every_store_is_listed():
    listed = re.findall(r"^\| `(\w+)://", read("how-to/buckets.md"), re.MULTILINE)
    assert set(listed) >= set(SCHEMES) - {"http"}


def rejections() -> set[str]:
    """Returns each message with which the server rejects a request, up to what was received; a value is three dots."""
    found = set()
    for file in sorted((ROOT / "kfp_vision" / "serving").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in REJECTIONS:
                parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else node.args[:1]
                words = [str(part.value) if isinstance(part, ast.Constant) else "..." for part in parts]
                found.add("".join(words).split("; got")[0])
    return {text for text in found if text != "..." and not text.startswith("....")}  # those whose rule is not a variable


def test_every_message_of_a_rejected_request_is_listed():
    quotes = re.findall(r"`([^`]+)`", section(read("reference/http.md"), "Statuses and errors"))
    assert len(rejections()) > 8
    shape = {text: ".*".join(map(re.escape, text.split("..."))) for text in rejections()}
    assert [text for text, pattern in shape.items() if not any(re.match(pattern, quote) for quote in quotes)] == []


def test_the_limits_of_a_request_are_those_of_the_server():
    pages = read("reference/http.md") + read("explanation/security.md")
    for limit in (
        f"{middleware.MAX_BODY_BYTES >> 20} MiB",
        f"{inference.MAX_PIXELS // 1_000_000} million pixels",
        f"{model.MAX_IMAGES_PER_REQUEST} images",
    ):
        assert pages.count(limit) >= 2, limit
    assert f"at most {inference.MAX_WAITING_IMAGES} images may wait" in pages
    assert f"within {middleware.BODY_TIMEOUT_SECONDS} seconds" in pages


def test_every_status_of_an_error_is_listed():
    source = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "kfp_vision" / "serving").glob("*.py"))
    raised = {int(status) for status in re.findall(r"HTTPException\((\d{3}),", source)}
    assert {408, 413} <= raised
    listed = {int(status) for status in re.findall(r"^\| (\d{3}) \|", read("reference/http.md"), re.MULTILINE)}
    assert listed >= {*raised, *app.STATUS_BY_ERROR.values(), 401, 405, 500}


def test_every_metric_is_listed():
    collectors = [one for one in vars(telemetry).values() if isinstance(one, Counter | Gauge | Histogram)]
    names = {metric.name + ("_total" if metric.type == "counter" else "") for one in collectors for metric in one.describe()}
    assert names == set(table_rows(read("reference/metrics.md")))


def test_the_versions_are_those_of_the_installation():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", read("reference/versions.md"), re.MULTILINE))
    least, most = re.findall(r"python_requires=\">=(3\.\d+),<3\.(\d+)\"", setup)[0]
    assert rows["Python"] == f"{least} to 3.{int(most) - 1}"
    pinned = {name: re.findall(rf"\"{name}>=([\d.]+),<", setup)[0] for name in VERSIONS}
    named = ("Kubeflow Pipelines", "TensorFlow", "Keras", "KServe's model server, in ours")
    assert [rows[name].split()[0] for name in named] == list(pinned.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_within_the_repository_leads_to_an_existing_file_and_heading(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if not link.startswith(("http://", "https://")):
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_table_of_contents():
    listed = {f"{line}.md" for line in read("index.md").splitlines() if re.fullmatch(r"[\w/-]+", line)}
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.name not in ("README.md", "index.md")}
    assert listed == pages


@pytest.mark.slow
def test_sphinx_builds_the_pages_without_a_warning(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("_*"))
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks", "images", "manifests", "pipelines"):
        (tmp_path / name).symlink_to(ROOT / name)
    options = ("--quiet", "--fail-on-warning", "--keep-going", "--nitpicky", "-b", "html")
    command = [sys.executable, "-m", "sphinx", *options, tmp_path / "docs", tmp_path / "html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "image_classification" in (tmp_path / "html" / "reference" / "fields.html").read_text(encoding="utf-8")
