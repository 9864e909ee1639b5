"""Random operations: what hypothesis draws, and how a rank plays its part in them.

A case is plain data, so that rank 0 can draw (and shrink) it and send it to all others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy_reference as reference
import torch
from hypothesis import strategies as st
from rank_values import device_type

Case = dict[str, Any]

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
FLOATS = ["float16", "bfloat16", "float32", "float64"]
EIGHT_BITS = ["float8_e4m3fn", "float8_e5m2"]
COMPLEX = ["complex64", "complex128"]
OPS = ["Average", "Sum", "Min", "Max", "Product"]
REDUCTIONS = ["allreduce", "allreduce_", "reducescatter", "grouped_allreduce",
              "grouped_allreduce_", "grouped_reducescatter"]  # fmt: skip
MOVES = ["allgather", "grouped_allgather", "broadcast", "broadcast_", "alltoall"]


@st.composite
def operations(draw: st.DrawFn, size: int, sets: list[list[int]]) -> Case:
    """One operation on one process set."""
    ranks = draw(st.sampled_from(sets))
    members = len(ranks)
    kind = draw(st.sampled_from(REDUCTIONS + MOVES))
    scatters = kind.endswith("reducescatter")
    reduces = kind in REDUCTIONS
    dtypes = [*INTEGERS, *FLOATS, *EIGHT_BITS, *COMPLEX, "bool"]
    count = draw(st.integers(1, 4)) if kind.startswith("grouped") else 1
    tensors = []
    for _ in range(count):
        needs_rows = scatters or kind in ("allgather", "grouped_allgather", "alltoall")
        dims = draw(st.lists(st.integers(0, 4), min_size=0, max_size=2))
        rows = draw(st.one_of(st.integers(0, 6), st.sampled_from([64, 257, 3000])))
        if not needs_rows and draw(st.booleans()):
            rows = None  # as few as no dimension at all
        layout = draw(st.sampled_from(["dense", "dense", "transposed", "strided"]))
        dtype = draw(st.sampled_from(dtypes))
        tensors.append({"rows": rows, "dims": dims, "dtype": dtype, "layout": layout})
    case: Case = {"kind": kind, "ranks": ranks, "tensors": tensors,
                  "seed": draw(st.integers(0, 1 << 30)), "own_rows": [], "splits": [],
                  "op": "Sum", "prescale": 1.0, "postscale": 1.0}  # fmt: skip
    if reduces:
        case["op"] = draw(st.sampled_from(OPS))
        names = {t["dtype"] for t in tensors}
        if names & set(COMPLEX):
            case["op"] = draw(st.sampled_from(["Sum", "Average"]))
        if "bool" in names:
            case["op"] = "Sum"
        factors = st.sampled_from([1.0, 1.0, 0.5, 2.0, -3.0])
        case["prescale"], case["postscale"] = draw(factors), draw(factors)
    if kind in ("allgather", "grouped_allgather"):
        case["own_rows"] = draw(
            st.lists(st.integers(0, 5), min_size=members, max_size=members)
        )  # on top of the common ones
    if kind.startswith("broadcast"):
        case["root"] = draw(st.sampled_from(ranks))
    if kind == "alltoall":
        row = st.lists(st.integers(0, 4), min_size=members, max_size=members)
        case["splits"] = draw(st.lists(row, min_size=members, max_size=members))
        case["equal"] = draw(st.booleans())
        if case["equal"]:
            each = case["splits"][0][0]
            case["splits"] = [[each] * members for _ in ranks]
    return case


@st.composite
def cases(draw: st.DrawFn, size: int, sets: list[list[int]]) -> list[Case]:
    """Operations that are open at the same time, and the order in which each rank submits them."""
    drawn = draw(st.lists(operations(size, sets), min_size=1, max_size=5))
    order = st.permutations(range(len(drawn)))
    return [{"operation": each, "place": [draw(order) for _ in range(size)] if not i else None}
            for i, each in enumerate(drawn)]  # fmt: skip


def _filled(spec: Case, rows: int | None, seed: list[int]) -> torch.Tensor:
    """Values of every kind that the dtype has, the same wherever they are made."""
    random = np.random.default_rng(seed)
    shape = tuple(spec["dims"]) if rows is None else (rows, *spec["dims"])
    dtype = getattr(torch, spec["dtype"])
    if dtype is torch.bool:
        return torch.from_numpy(np.asarray(random.integers(0, 2, shape).astype(bool)))
    if spec["dtype"] in INTEGERS:
        limits = torch.iinfo(dtype)
        wide = random.integers(
            limits.min, limits.max, shape, dtype=np.dtype(spec["dtype"]), endpoint=True
        )
        return torch.from_numpy(np.asarray(wide))
    if dtype.is_complex:
        parts = [torch.from_numpy(np.asarray(random.standard_normal(shape))) for _ in range(2)]
        return torch.complex(*parts).to(dtype)
    values = random.standard_normal(shape) * 10.0 ** random.integers(-3, 4)
    values = np.where(random.random(shape) < 0.01, np.inf, values)
    return torch.from_numpy(np.asarray(values)).to(torch.float32).to(dtype)


def _laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in memory that is not row-major."""
    if layout == "transposed" and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided" and tensor.dim() > 0:
        room = torch.zeros((tensor.shape[0] * 2, *tensor.shape[1:]), dtype=tensor.dtype)
        room[::2] = tensor
        return room[::2]
    return tensor


class Part:
    """One rank's part in one operation: start it, finish it, compare."""

    def __init__(self, hvd: Any, sets: dict[tuple[int, ...], Any], case: Case, name: str) -> None:
        self.hvd, self.case, self.name = hvd, case, name
        self.ranks = case["ranks"]
        self.place = self.ranks.index(hvd.rank())
        self.set = sets[tuple(self.ranks)]
        # by tensor, then by place
        self.operands = [
            [_filled(spec, self._rows(spec, p), [case["seed"], t, rank])
             for p, rank in enumerate(self.ranks)]
            for t, spec in enumerate(case["tensors"])
        ]  # fmt: skip
        self.mine = [
            _laid_out(by_place[self.place].clone().to(device_type()), spec["layout"])
            for by_place, spec in zip(self.operands, case["tensors"], strict=True)
        ]

    def _rows(self, spec: Case, place: int) -> int | None:
        if self.case["kind"] == "alltoall":
            return sum(self.case["splits"][place])
        own = self.case["own_rows"]
        return spec["rows"] + own[place] if own else spec["rows"]

    def start(self) -> None:
        hvd, case, kind = self.hvd, self.case, self.case["kind"]
        options: dict[str, Any] = {"name": self.name, "process_set": self.set}
        if kind in REDUCTIONS:
            options |= {"op": getattr(hvd, case["op"]), "prescale_factor": case["prescale"],
                        "postscale_factor": case["postscale"]}  # fmt: skip
        if kind.startswith("broadcast"):
            options["root_rank"] = case["root"]
        if kind == "alltoall" and not case["equal"]:
            options["splits"] = torch.tensor(case["splits"][self.place], dtype=torch.int32)
        in_place = kind.endswith("_")
        function = getattr(hvd, kind.rstrip("_") + "_async" + ("_" if in_place else ""))
        self.handle = function(self.mine if kind.startswith("grouped") else self.mine[0], **options)

    def finish(self) -> None:
        result = self.hvd.synchronize(self.handle)
        kind = self.case["kind"]
        if kind == "alltoall":
            result, received = result
            assert received.tolist() == [row[self.place] for row in self.case["splits"]]
        results = result if kind.startswith("grouped") else [result]
        assert len(results) == len(self.operands)
        for number, (actual, by_place) in enumerate(zip(results, self.operands, strict=True)):
            self._compare(actual, self._expected(by_place), number)
            if kind.endswith("_"):
                assert actual is self.mine[number]
            else:
                self._compare(self.mine[number], by_place[self.place], number)  # untouched

    def _expected(self, by_place: list[torch.Tensor]) -> torch.Tensor:
        case, kind = self.case, self.case["kind"]
        if kind in REDUCTIONS:
            whole = reference.reduce(by_place, case["op"], case["prescale"], case["postscale"])
            if kind.endswith("reducescatter"):
                rows = reference.rows_of_rank(whole.shape[0], self.place, len(self.ranks))
                return whole[rows]
            return whole
        if kind.endswith("allgather"):
            return torch.cat(by_place)
        if kind == "alltoall":
            return reference.alltoall(by_place, case["splits"], self.place)
        return by_place[self.ranks.index(case["root"])]

    def _compare(self, actual: torch.Tensor, expected: torch.Tensor, number: int) -> None:
        what = f"{self.name} ({self.case['kind']}), tensor {number}"
        assert actual.dtype == expected.dtype, what
        assert actual.shape == expected.shape, what
        if np.array_equal(reference.bits(actual), reference.bits(expected)):
            return
        # A NaN may have any payload in the reference; in the result it is a NaN all the same.
        wide = [t.cpu().to(torch.complex128 if t.is_complex() else torch.float64)
                for t in (actual, expected)]  # fmt: skip
        assert torch.isnan(wide[1]).any(), f"{what}: {actual} is not {expected}"
        torch.testing.assert_close(*wide, rtol=0, atol=0, equal_nan=True, msg=what)
