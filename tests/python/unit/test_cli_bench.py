"""``hora bench``: its options, its values and its table, without any rank."""

from __future__ import annotations

import argparse

import pytest
from hora.cli import bench, bench_options
from hora.cli.main import main

torch = pytest.importorskip("torch")

from hora.cli.bench_collectives import Collective, bus_factor  # noqa: E402


@pytest.mark.parametrize(
    ("text", "count"), [("4", 4), ("64K", 65536), ("1m", 1 << 20), ("2GiB", 2 << 30)]
)
def test_sizes_are_read(text, count):
    assert bench_options.parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "K", "-4", "1.5M", "4T", "0"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no size"):
        bench_options.parse_bytes(text)


def test_sizes_grow_by_the_factor_up_to_the_largest():
    assert bench_options.sizes_between(8, 100, 4) == [8, 32]
    assert bench_options.sizes_between(8, 8, 2) == [8]
    with pytest.raises(ValueError, match="--min-bytes"):
        bench_options.sizes_between(9, 8, 2)


@pytest.mark.parametrize(
    "words",
    [["allreduc"], ["-f", "1"], ["-np", "0"], ["-b", "x"], ["-b", "2M", "-e", "1M"], ["-d", "x"]],
)
def test_usage_errors_end_with_code_2(words, capsys):
    with pytest.raises(SystemExit) as error:
        main(["bench", *words])
    assert error.value.code == 2
    assert "hora bench: error:" in capsys.readouterr().err


def test_what_ranks_must_get():
    def results(op, reduction="sum"):
        what = Collective(op, 4, torch.float32, reduction)
        return [what.expected(rank, 2).tolist() for rank in range(2)]

    # Rank 0 brings 1 2 3 4, rank 1 brings 2 3 4 5; of an allgather only the first half.
    assert results("allreduce") == [[3, 5, 7, 9]] * 2
    assert results("allreduce", "max") == [[2, 3, 4, 5]] * 2
    assert results("allreduce", "average") == [[1.5, 2.5, 3.5, 4.5]] * 2
    assert results("reducescatter", "product") == [[2, 6], [12, 20]]
    assert results("broadcast") == [[1, 2, 3, 4]] * 2
    assert results("allgather") == [[1, 2, 2, 3]] * 2
    assert results("alltoall") == [[1, 2, 2, 3], [3, 4, 4, 5]]


def test_wrong_elements_are_counted():
    what = Collective("allreduce", 3, torch.float16)
    result = what.expected(0, 2)
    assert what.count_wrong(result, 0, 2) == 0
    result[1] = 0
    assert what.count_wrong(result, 0, 2) == 1


def test_bus_bandwidth_is_that_of_nccl_tests():
    assert bus_factor("allreduce", 4) == 1.5
    assert bus_factor("broadcast", 4) == 1
    assert bus_factor("alltoall", 4) == 0.75


def test_a_row_stands_below_its_heading():
    figures = {"time_us": 12.345, "algbw_GBps": 1.5, "busbw_GBps": 1.5, "wrong": 0}
    what = {"bytes": 8, "count": 2, "dtype": "float32", "redop": "sum", "root": -1}
    line = bench.line_of({**what, "library": "hora", "in_place": figures})
    columns = bench.HEADING.splitlines()[1]
    for name, value in (("type", "float32"), ("redop", "sum"), ("root", "-1")):
        assert line.index(value) + len(value) == columns.index(name) + len(name)
    assert line.split()[5:] == ["-", "-", "-", "-", "12.35", "1.50", "1.50", "0", "hora"]
