"""Writes the generated tables of the pages in `docs/reference`: fields, `advanced`, stages and the command line.

A page holds a table between `<!-- generated: NAME -->` and `<!-- end -->`; `kfp-vision compile` replaces what is between them.
"""

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from docstring_parser import parse
from kfp.dsl.graph_component import GraphComponent

from kfp_vision.components.container_images import GPU_IMAGE
from kfp_vision.core.advanced import (
    ADVANCED_CHOICES,
    ADVANCED_DEFAULTS,
    ADVANCED_RULES,
    PREPARATION_ADVANCED,
    READING_ADVANCED,
    SEARCH_ADVANCED,
    Advanced,
)
from kfp_vision.core.errors import InputError
from kfp_vision.networks import TF_SLIM_INCEPTION_V1
from kfp_vision.pipelines import PIPELINES
from kfp_vision.pipelines.compiling import COMPONENTS
from kfp_vision.pipelines.form import read_form
from kfp_vision.pipelines.pods import DAY, HOUR, MINUTE, PODS, Pod
from kfp_vision.preflight.checks import ADVANCED_NOT_IN_RECIPE
from kfp_vision.training.recipe_presets import DEFAULTS, PRESETS, TUTORIAL

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"  # absent from an installed package
MARKED = re.compile(r"(<!-- generated: (?P<name>[\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)
RULE_WORDS = {"not be negative": "0 or more", "not be above 0": "0 or less"}
INPUT_TYPES = {"String": "text", "Integer": "whole number", "Float": "number", "Boolean": "true or false"}
INPUT_TYPES |= {"List": "list", "Dict": "dictionary"}


def write_pages(parser: argparse.ArgumentParser) -> list[Path]:
    """Rewrites the generated tables.

    Args:
        parser: the parser of the command line, which the pages describe.

    Returns:
        The pages that hold such tables.
    """
    pages = render_pages(parser)
    for file, text in pages.items():
        file.write_text(text, encoding="utf-8")
    return list(pages)


def out_of_date(parser: argparse.ArgumentParser) -> list[Path]:
    """Finds the pages whose generated tables differ from the current code.

    Args:
        parser: the parser of the command line.

    Returns:
        The outdated pages.
    """
    return [file for file, text in render_pages(parser).items() if file.read_text(encoding="utf-8") != text]


def render_pages(parser: argparse.ArgumentParser) -> dict[Path, str]:
    """Renders the pages that hold generated tables.

    Args:
        parser: the parser of the command line.

    Returns:
        The text of each page by its path; empty where there are no pages, as in an installed package.

    Raises:
        InputError: a page names a table that does not exist.
    """
    tables: dict[str, Callable[[], str]] = {
        "advanced": advanced_table,
        "stages": stages_table,
        "stage descriptions": stage_descriptions,
        "commands": partial(command_descriptions, parser),
    }
    tables["recipes"] = recipes_table
    of_some = {"prepare_records": PREPARATION_ADVANCED, "image_search": SEARCH_ADVANCED}
    of_some |= dict.fromkeys(("batch_prediction", "drift_detection", "review"), READING_ADVANCED)
    for name, known in of_some.items():
        tables[f"advanced of {name}"] = partial(", ".join, [f"`{field}`" for field in known])
    tables |= {f"fields of {name}": partial(fields_table, pipeline) for name, pipeline in PIPELINES.items()}

    def fill(file: Path, match: re.Match[str]) -> str:
        name = match["name"]
        if name not in tables:
            rule = f"a generated table must be one of {', '.join(sorted(tables))}"
            raise InputError(rule, f"{name} in {file.name}", "Correct its marker.")
        return f"{match[1]}\n{tables[name]()}\n\n{match[3]}"

    texts = {file: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.md"))}
    return {file: MARKED.sub(partial(fill, file), text) for file, text in texts.items() if MARKED.search(text)}


def fields_table(pipeline: GraphComponent) -> str:
    """Renders the fields of a pipeline's form, in the order of its signature.

    Args:
        pipeline: the pipeline.
    """
    rows = [(f"`{field.name}`", field.description, field.type, format_default(field.default)) for field in read_form(pipeline)]
    return table(("field", "what it is", "type", "default"), rows)


def advanced_table() -> str:
    """Renders the fields of `advanced`."""
    texts = {one.args[-1]: one.description or "" for one in parse(inspect.getdoc(Advanced) or "").params}
    rows = []
    for name, default in ADVANCED_DEFAULTS.items():
        rules = [", ".join(f"`{choice}`" for choice in ADVANCED_CHOICES.get(name, ()))]
        rules += [RULE_WORDS.get(rule, rule.removeprefix("be ")) for names, _, rule in ADVANCED_RULES if name in names]
        again = "no" if name in ADVANCED_NOT_IN_RECIPE else "yes"
        rows.append((f"`{name}`", texts[name], format_default(default), "; ".join(filter(None, rules)), again))
    return table(("name", "what it is", "default", "allowed", "trains again"), rows)


def recipes_table() -> str:
    """Renders what each recipe sets, a row per field; empty cells are the form's defaults."""
    settings = {recipe: preset | preset.get("advanced", {}) for recipe, preset in PRESETS.items() if recipe != TUTORIAL}
    in_advanced = dict.fromkeys(name for preset in PRESETS.values() for name in preset.get("advanced", {}))
    defaults = {**DEFAULTS, **{name: ADVANCED_DEFAULTS[name] for name in in_advanced}}
    rows = []
    for name, default in defaults.items():
        values = [format_default(preset[name]) if name in preset else "" for preset in settings.values()]
        if any(values):
            shown = "TF-Slim's archive" if default == TF_SLIM_INCEPTION_V1 else format_default(default)  # its address is long
            rows.append((f"`{name}`{' of `advanced`' if name in in_advanced else ''}", shown, *values))
    return table(("field", f"`{TUTORIAL}`", *(f"`{recipe}`" for recipe in settings)), rows)


def stages_table() -> str:
    """Renders an overview of the stages, roughly in the order of a run, each linked to its description."""
    rows = []
    for name, pod in PODS.items():
        cores, memory = " to ".join(pod.cpu), " to ".join(pod.memory)
        cached = "yes" if pod.cached else "no"
        rows.append((f"[`{name}`](#{name})", _image_of(name), cores, memory, pod.room, _duration(pod.seconds), cached))
    return table(("stage", "image", "cores", "memory", "disk", "deadline", "cached"), rows)


def stage_descriptions() -> str:
    """Renders a section for each stage: what it does, inputs, outputs, resources, and how to load it."""
    return "\n\n".join(_describe_stage(name, pod) for name, pod in PODS.items())


def _describe_stage(name: str, pod: Pod) -> str:
    spec = COMPONENTS[name].component_spec
    used = [f"`{pipeline}`" for pipeline, one in PIPELINES.items() if name in _stages(one)]
    form = _form_descriptions(used[0].strip("`"))
    inputs = [
        (f"`{one}`", given.description or form.get(one), _type_name(given.type)) for one, given in (spec.inputs or {}).items()
    ]
    outputs = [(f"`{one}`", made.description, _type_name(made.type)) for one, made in (spec.outputs or {}).items()]
    needs = f"Requests {_cores(pod.cpu[0])} and {pod.memory[0]} of memory"
    needs += f"; may use {pod.cpu[1]} cores, {pod.memory[1]}, and {pod.room} below `/tmp`; ends after {_duration(pod.seconds)}."
    needs += " Is started again if its pod is lost." if pod.retried else " Is not started again."
    needs += " Gets the keys to the stores." if pod.stores else ""
    needs += " Its outputs may come from the cache." if pod.cached else " Is always executed."
    parts = [f"## {name}", spec.description or "", f"In {', '.join(used)}; container image `{_image_of(name)}`. {needs}"]
    if inputs:
        parts.append(table(("input", "what it is", "type"), inputs))
    if outputs:
        parts.append(table(("output", "what it is", "type"), outputs))
    code = f'{name} = kfp.components.load_component_from_file("components/{name}.yaml")'
    return "\n\n".join([*filter(None, parts), f"```python\n{code}\n```"])


def command_descriptions(parser: argparse.ArgumentParser) -> str:
    """Renders a section for each command: what it does, its arguments and options.

    Args:
        parser: the parser of the command line.
    """
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    sections = []
    for name, command in commands.choices.items():
        given = [action for action in command._actions if action.dest != "help"]
        given.sort(key=lambda action: (bool(action.option_strings), action.dest == "debug"))
        positional = " ".join(_argument(action) for action in given if not action.option_strings)
        usage = f"```text\n{' '.join(filter(None, (parser.prog, name, positional)))} [OPTIONS]\n```"
        rows = [(f"`{_argument(action)}`", _help(action)) for action in given]
        sections.append(
            "\n\n".join([f"## {name}", f"{_sentence(helps[name])}", usage, table(("argument", "what it is"), rows)])
        )
    return "\n\n".join(sections)


def table(head: tuple[str, ...], rows: Iterable[tuple[str | None, ...]]) -> str:
    """Renders a table in Markdown.

    Args:
        head: the titles of the columns.
        rows: the cells.
    """
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def format_default(value: object) -> str:
    """Renders a default as a person would type it; empty for nothing.

    Args:
        value: the default.
    """
    if value in ("", [], {}) and not isinstance(value, bool):
        return {"": "", "[]": "`[]`", "{}": "`{}`"}[str(value)]
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | Mapping):
        return f"`{str(value).replace(chr(39), chr(34))}`"
    return f"`{value:.4g}`" if isinstance(value, float | int) else f"`{value}`"


def _cell(text: str | None) -> str:
    line = " ".join((text or "").split()).replace("|", "\\|")
    return line if ". " in line else line.removesuffix(".")


def _type_name(kind: Any) -> str:
    name = str(kind)
    return INPUT_TYPES.get(name) or name.removeprefix("system.").partition("@")[0]


def _image_of(stage: str) -> str:
    image = str(COMPONENTS[stage].component_spec.implementation.container.image)
    return "kfp-vision-gpu" if image == GPU_IMAGE else "kfp-vision"


def _stages(pipeline: GraphComponent) -> set[str]:
    executors = pipeline.pipeline_spec.deployment_spec["executors"]
    return {name.removeprefix("exec-").replace("-", "_") for name in executors}


def _form_descriptions(pipeline: str) -> dict[str, str]:
    """Returns the descriptions of a pipeline's fields: the inputs of its check, which repeats none of them."""
    return {field.name: field.description for field in read_form(PIPELINES[pipeline])}


def _cores(quantity: str) -> str:
    return f"{int(quantity[:-1]) / 1000:g} cores" if quantity.endswith("m") else _plural(int(quantity), "core")


def _duration(seconds: int) -> str:
    for size, unit in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        if seconds >= size:
            return _plural(seconds // size, unit)
    return _plural(seconds, "second")


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _argument(action: argparse.Action) -> str:
    """Renders an argument as a person types it, such as `--port PORT` or `IMAGE...`."""
    name = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper())
    name = " ".join(name) if isinstance(name, tuple) else name
    if action.option_strings:
        value = "" if action.nargs == 0 else f" {name}"
        return ", ".join(action.option_strings) + value
    return {"?": f"[{name}]", "*": f"[{name}...]", "+": f"{name}..."}.get(str(action.nargs), name)


def _help(action: argparse.Action) -> str:
    return _sentence((action.help or "") % {"default": action.default})


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""
