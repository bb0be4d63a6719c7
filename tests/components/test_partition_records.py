import pytest
from support import run_component

from kfp_vision import components


@pytest.mark.parametrize(("partitions", "numbers"), [(1, [0]), (4, [0, 1, 2, 3])])
def test_numbers_partitions_from_0(tmp_path, partitions, numbers):
    ended = run_component.run(components.partition_records, tmp_path, partitions=partitions)
    assert ended.succeeded
    assert ended.output == numbers
    assert ended.printed == []
