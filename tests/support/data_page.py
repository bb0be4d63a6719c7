"""The tables of docs/data.md, each line of which a test holds."""

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def first_cells(section: str) -> list[str]:
    """Returns the first cell of each line of the table in a section of docs/data.md.

    Args:
        section: its heading.
    """
    text = PAGE.read_text(encoding="utf-8").split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [line.split("|")[1].strip() for line in lines[2:]]
