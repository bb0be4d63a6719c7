"""Packages are left out, stood in for and deferred while others are imported, and come as ever afterwards."""

import sys
from pathlib import Path

import pytest

from kfp_vision.core import hidden_imports

FILES = {
    "shop/__init__.py": "import tables\nfrom .till import OPEN\nprice = 3\n",
    "shop/till.py": "OPEN = True\n",
    "shop/goods.py": "import tables\nKIND = tables.Table\n",
    "tables.py": "class Table: pass\nclass Chair: pass\n",
}


@pytest.fixture(autouse=True)
def packages(tmp_path, monkeypatch):
    """Writes two packages that can be imported, and forgets them afterwards."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("shop", "tables")]:
        del sys.modules[name]


def test_the_modules_of_a_deferred_package_are_imported_without_it():
    hidden_imports.defer("shop")
    from shop import till

    assert till.OPEN and "tables" not in sys.modules
    assert Path(sys.modules["shop"].__path__[0]).name == "shop"


def test_a_deferred_package_runs_once_somebody_asks_for_a_name_of_it():
    hidden_imports.defer("shop")
    import shop

    assert "tables" not in sys.modules
    assert (shop.price, shop.OPEN) == (3, True) and "tables" in sys.modules
    shop.price = 4
    hidden_imports.defer("shop")
    assert shop.price == 4
    with pytest.raises(AttributeError, match="no attribute 'owner'"):
        _ = shop.owner


def test_only_a_package_that_there_is_can_be_deferred():
    with pytest.raises(ModuleNotFoundError, match="No module named 'stall'"):
        hidden_imports.defer("stall")


def test_a_stand_in_is_there_for_one_import_only():
    hidden_imports.defer("shop")
    with hidden_imports.stand_in("tables", Table=int):
        from shop import goods
    assert goods.KIND is int
    import tables

    assert tables.Chair


def test_nothing_stands_in_for_a_package_that_is_loaded():
    import tables

    with hidden_imports.stand_in("tables", Table=int):
        assert sys.modules["tables"] is tables
    assert sys.modules["tables"] is tables


def test_a_stand_in_leaves_after_an_error():
    with pytest.raises(ValueError, match="no"), hidden_imports.stand_in("tables"):
        raise ValueError("no")
    assert "tables" not in sys.modules
