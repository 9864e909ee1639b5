"""benchmarks/gpu: what programs print, the goals, the page; no GPU is needed."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

GPU = Path(__file__).resolve().parents[3] / "benchmarks" / "gpu"
PEERS = GPU.parent / "peers"
MACHINE = {
    "section": "machine", "gpu": "Chip", "driver": "580.95", "cuda": "13.0", "torch": "2.11.0",
    "nccl": "2.28.9", "cpu": "Core", "commit": "abc1234", "when": "2026-01-02", "command": "make x",
}  # fmt: skip
PACK = (
    '{"gpu": "Chip", "runtime": "CUDA 13.0"}\n'
    '{"way": "one large copy", "bytes": 9, "us": 1.0, "GB/s": 4000.0}\n'
    '{"way": "pack and unpack", "bytes": 9, "us": 1.0, "GB/s": 3400.0}\n'
)


@pytest.fixture(autouse=True)
def _on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(PEERS))
    monkeypatch.syspath_prepend(str(GPU))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:  # their names are short: leave them to others
        if str(GPU.parent) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def module(name):
    return importlib.import_module(name)


def reached(records):
    return {row.goal: (row.reached, row.met) for row in module("gpu_goals").rows(records)}


def program(path: Path, text: str, code: int = 0) -> str:
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def test_lines_of_json_become_records():
    found = module("run").records_of("pack", f"hello\n{PACK}{{broken\n")
    assert [one.get("GB/s") for one in found] == [None, 4000.0, 3400.0]
    assert {one["section"] for one in found} == {"pack"}


@pytest.mark.parametrize(
    ("own", "per_tensor", "met"), [(3400, 1000, (True, True)), (3100, 1100, (False, False))]
)
def test_packing_against_both_limits(own, per_tensor, met):
    records = module("run").records_of("pack", PACK.replace("3400.0", str(own)))
    records.append({"section": "pack", "way": "one copy_ per tensor", "GB/s": per_tensor})
    found = reached(records)
    assert (found["G1"][1], found["G2"][1]) == met
    if met[0]:
        assert found["G1"][0] == "85.0 % (3,400 against 4,000 GB/s)"
        assert found["G2"][0] == "3.40 × (3,400 against 1,000 GB/s)"


SCALED = "scaled average in place"


@pytest.mark.parametrize(("us", "met"), [(14.2, True), (15.3, False)])
def test_the_launch_counts_for_the_smallest_tensor_with_work_of_nccl_and_hora(us, met):
    records = [{"section": "submit", "way": SCALED, "bytes": 4, "launch_us": us},
               {"section": "submit", "way": SCALED, "bytes": 1 << 20, "launch_us": 99.0},
               {"section": "submit", "way": "sum in place", "bytes": 4, "launch_us": 1.0},
               {"section": "submit", "bytes": 4, "launch_us": 1.0}]  # fmt: skip
    assert reached(records)["G3"] == (f"{us} µs ({us / 15:.2f} × the limit)", met)
    assert reached(records[2:])["G3"] == ("not measured", None)


@pytest.mark.parametrize(
    ("ratio", "shown", "met"), [(1.0042, "+0.42 %", True), (0.999, "-0.10 %", True),
                                (1.0101, "+1.01 %", False)]
)  # fmt: skip
def test_a_step_may_take_one_percent_more(ratio, shown, met):
    records = [{"section": "step", "ratio": ratio, "hora_us": 30100.0, "plain_us": 30000.0,
                "nccl_called": called} for called in (False, True)]  # fmt: skip
    found = [row for row in module("gpu_goals").rows(records) if row.goal == "G4"]
    assert [(row.reached, row.met) for row in found] == [
        (f"{shown} (30,100 against 30,000 µs)", met)
    ] * 2
    assert [row.what.rpartition(": ")[2] for row in found] == [
        "gradients packed, averaged by NCCL, unpacked",
        "agreement and events, the gradients where they are",
    ]
    (missing, _) = [row for row in module("gpu_goals").rows(records[:1]) if row.goal == "G4"]
    assert missing.reached == "not measured"


class Recorder:
    """Takes every call as hora.torch would, and remembers it."""

    Sum, Average = 1, 2

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda tensor, **options: self.calls.append((name, options))


def test_ways_do_what_they_are_called():
    ways, hvd = module("ways"), Recorder()
    for way in ways.WAYS:
        way.start(hvd, None)
    assert dict(zip((way.name for way in ways.WAYS), hvd.calls, strict=True)) == {
        "sum in place": ("allreduce_async_", {"name": "launch", "op": 1}),
        "sum out of place": ("allreduce_async", {"name": "launch", "op": 1}),
        SCALED: ("allreduce_async_", {"name": "launch", "op": 2, "prescale_factor": -1.0}),
        "alltoall": ("alltoall_async", {"name": "launch"}),
    }
    assert module("gpu_goals").LAUNCHED in {way.name for way in ways.WAYS}


def test_a_way_is_summed_up_with_what_it_contains():
    ways = module("ways")
    record = ways.summary(ways.WAYS[0], 4, [1000] * 9, [2000, 3000, 9000] * 3)
    assert record.pop("contains") == ways.WAYS[0].contains
    assert record == {"way": "sum in place", "bytes": 4, "submit_us": 1.0, "launch_us": 3.0,
                      "launch_p90_us": 9.0}  # fmt: skip


def test_nothing_is_measured_where_one_rank_calls_no_nccl():
    ways = module("ways")
    assert ways.is_nccl_called({"HORA_NCCL_ALONE": "1"})
    assert not ways.is_nccl_called({"HORA_NCCL_ALONE": "0"})
    assert not ways.is_nccl_called({})


def test_what_was_not_measured_is_neither_met_nor_missed():
    refused = [{"section": name, "refusal": "no"} for name in ("pack", "submit", "step", "staged")]
    for records in ([], refused):
        assert set(reached(records).values()) == {("not measured", None)}
        assert module("gpu_goals").staged_table(records) == ""


def test_the_page_names_machine_goals_sizes_and_refusals():
    records = [
        MACHINE,
        {"section": "staged", "peer": "hora", "bytes": 1 << 20, "time_us": 400.0},
        {"section": "staged", "peer": "gloo", "bytes": 1 << 20, "time_us": 1000.0},
        {"section": "staged", "peer": "hora", "bytes": 1 << 26, "time_us": 9000.0},
        {
            "section": "submit",
            "way": SCALED,
            "contains": "two kernels",
            "bytes": 4,
            "launch_us": 12.5,
        },
        {"section": "step", "refusal": "code 1: out of memory"},
    ]
    page = module("gpu_goals").page(records)
    assert "Chip, driver 580.95; CUDA 13.0, PyTorch 2.11.0, NCCL 2.28.9; Core; commit" in page
    assert "| 1 | 400 | 1,000 | 2.50 × |\n| 64 | 9,000 | – | – |" in page
    assert "| G4 | training step of ResNet-50, 1 rank, over plain PyTorch: gradients" in page
    assert (
        f"| operation | contains | 4 B, µs |\n|---|---|---|\n| {SCALED} | two kernels | 12.5 |"
        in page
    )
    assert "Not measured: step: code 1: out of memory" in page


def test_a_part_that_fails_leaves_what_it_measured_and_the_reason(tmp_path):
    run = module("run")
    found = run.run_part("pack", [program(tmp_path / "p", PACK, 3)])
    assert len(found) == 4 and found[-1]["refusal"].startswith("code 3: ")
    (silent,) = run.run_part("pack", [program(tmp_path / "q", "pack_bench: skipped: no driver")])
    assert silent["refusal"] == "code 0: pack_bench: skipped: no driver"
    (missing,) = run.run_part("pack", [str(tmp_path / "nothing")])
    assert "nothing" in missing["refusal"]


def test_without_a_gpu_nothing_is_written(tmp_path, monkeypatch, capsys):
    run = module("run")
    monkeypatch.setattr(run, "has_gpu", lambda: False)
    assert run.main(["--pack-bench", "/none", "--output", str(tmp_path)]) == 0
    assert "there is no GPU here" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refuses", [False, True])
def test_a_run_writes_records_and_page(tmp_path, monkeypatch, capsys, refuses):
    run = module("run")
    monkeypatch.setattr(run, "has_gpu", lambda: True)
    monkeypatch.setattr(run, "machine", lambda command: MACHINE | {"command": command})
    part = program(tmp_path / "part", PACK, int(refuses))
    monkeypatch.setattr(run, "parts", lambda pack_bench: [("pack", [part])])
    results = tmp_path / "results"
    code = run.main(["--pack-bench", "/p", "--command", "make y", "--output", str(results)])
    assert code == int(refuses)
    page = (results / "gpu.md").read_text()
    assert "`make y`" in page and "85.0 %" in page
    assert page.strip() == capsys.readouterr().out.strip()
    assert len((results / "gpu.jsonl").read_text().splitlines()) == 4 + refuses


def test_parts_are_measured_apart_and_every_figure_says_where(tmp_path, monkeypatch):
    run = module("run")
    monkeypatch.setattr(run, "has_gpu", lambda: True)
    here = dict(MACHINE)
    monkeypatch.setattr(run, "machine", lambda command: here | {"command": command})
    record = {"way": SCALED, "contains": "kernels", "bytes": 4, "launch_us": 12.0}
    submit = program(tmp_path / "submit", json.dumps(record))
    pack = program(tmp_path / "pack", PACK)
    monkeypatch.setattr(run, "parts", lambda _: [("pack", [pack]), ("submit", [submit])])

    def measured(*options):
        words = ["--pack-bench", "/p", "--output", str(tmp_path), *options]
        assert run.main(words) == 0
        return run.report.read_jsonl(tmp_path / "gpu.jsonl")

    assert {one["section"] for one in measured("--parts", "pack")} == {"machine", "pack"}
    both = measured("--parts", "submit", "--command", "make again")
    assert {one["section"]: one["command"] for one in both[1:]} == {
        "pack": "make bench-gpu", "submit": "make again",
    }  # fmt: skip
    for one in both:
        assert {"gpu", "driver", "cuda", "torch", "nccl", "commit", "when"} <= one.keys()
    page = (tmp_path / "gpu.md").read_text()
    assert "85.0 %" in page and "12 µs (0.80 × the limit)" in page
    here["commit"] = "def5678"  # figures of another commit are no longer this one's
    assert {one["section"] for one in measured("--parts", "submit")} == {"machine", "submit"}
    with pytest.raises(SystemExit):
        measured("--parts", "pack moon")


def test_when_the_time_is_up_it_says_what_is_left(tmp_path, monkeypatch, capsys):
    run = module("run")
    monkeypatch.setattr(run, "has_gpu", lambda: True)
    monkeypatch.setattr(run, "machine", lambda command: MACHINE | {"command": command})
    pack = program(tmp_path / "pack", PACK)
    turns = iter([("pack", [pack]), ("submit", ["/never"]), ("step", ["/never"])])
    monkeypatch.setattr(run, "parts", lambda _: turns)
    clock = iter([0.0, 0.0, 9.5, 9.5])
    monkeypatch.setattr(run.time, "monotonic", lambda: next(clock))
    assert run.main(["--pack-bench", "/p", "--output", str(tmp_path), "--limit", "10"]) == 75
    assert 'go on with: make bench-gpu PARTS="submit step"' in capsys.readouterr().out
    assert "85.0 %" in (tmp_path / "gpu.md").read_text()


def test_every_program_is_there():
    for section, words in module("run").parts("/build/pack_bench"):
        scripts = [word for word in words if word.endswith(".py")]
        assert section in ("pack", "submit", "step", "staged")
        assert all(Path(script).is_file() for script in scripts)
        assert scripts or words == ["/build/pack_bench"]
        if section == "submit":  # else there is nothing to measure
            assert words[:2] == ["env", "HORA_NCCL_ALONE=1"]


def test_the_network_is_resnet_50():
    with torch.device("meta"):
        network = module("resnet").resnet50()
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    sizes = [parameter.numel() for parameter in network.parameters()]
    assert (len(sizes), sum(sizes)) == (161, 25_557_032)
