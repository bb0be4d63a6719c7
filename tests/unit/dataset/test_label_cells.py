"""Cells that hold several labels, with a separator between them or as a list."""

import pytest

from kfp_vision.dataset.invalid_lines import InvalidLine
from kfp_vision.dataset.label_cells import choose_separator, read_cell


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["daisy|rose", "tulip"], "|"),
        (["daisy;rose", "tulip, red"], ";"),
        (["daisy, rose", "tulip"], ","),
        (["daisy,rose", "tulip|aster"], "|"),
        (["daisy", "tulip"], ""),
        (['["daisy, red", "rose"]', "tulip"], ""),
        (['["daisy, red", "rose"]', "tulip, red"], ""),
        (["[]", "daisy|rose"], "|"),
        ([], ""),
    ],
)
def test_the_separator_is_chosen_for_the_whole_column(cells, separator):
    assert choose_separator(cells) == separator


@pytest.mark.parametrize(
    ("cell", "separator", "labels"),
    [
        ("daisy|rose", "|", ["daisy", "rose"]),
        (" daisy | rose |", "|", ["daisy", "rose"]),
        ("daisy, red", "|", ["daisy, red"]),
        ("daisy, red", "", ["daisy, red"]),
        ("clear primary", " ", ["clear", "primary"]),
        ('["daisy", "rose"]', "|", ["daisy", "rose"]),
        ("['daisy', 'rose']", "", ["daisy", "rose"]),
        ("[3, 4.0]", "", ["3", "4"]),
        ('{"choices": ["daisy", "rose"]}', "", ["daisy", "rose"]),
        ('{"choices": "daisy"}', "", ["daisy"]),
        ("[]", "|", []),
        ("", "|", None),
        ("NaN", "|", None),
        ("|", "|", None),
    ],
)
def test_a_cell_holds_labels_none_or_says_nothing(cell, separator, labels):
    assert read_cell(cell, separator) == labels


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        ("[daisy, rose]", "a list of labels that is not JSON"),
        ("[0.5]", "a label that is neither a string nor a whole number"),
        ('[["daisy"]]', "a label that is neither a string nor a whole number"),
        ('{"boxes": 3}', "a label that is neither a string nor a whole number"),
        ("[True]", "a label that is neither a string nor a whole number"),
    ],
)
def test_a_list_that_holds_no_labels_is_rejected(cell, fault):
    with pytest.raises(InvalidLine, match=fault):
        read_cell(cell, "")
