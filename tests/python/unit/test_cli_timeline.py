"""``hora timeline merge`` and ``hora bench plot``, over files as the engine writes them."""

from __future__ import annotations

import importlib.util
import json

import pytest
from hora.cli import bench_plot
from hora.cli.main import main

# As the engine writes it, and its own tests pin it.
HEADER = (
    "sample,phase,seconds,bytes,gigabytes_per_second,relative_speed,"
    "fusion_threshold_bytes,chunk_bytes,small_allreduce_bytes,urgent_bytes"
)


def trace(path, rank, complete=True):
    lines = [
        {"name": "process_name", "ph": "M", "pid": rank, "args": {"name": f"rank {rank}"}},
        {"name": 'ALLREDUCE "ü"', "ph": "B", "pid": rank, "tid": 1, "ts": 1700000000000001.5},
        {"ph": "E", "pid": rank, "tid": 1, "ts": 1700000000000002.5, "args": {}},
    ]
    text = "[\n" + ",\n".join(json.dumps(line) for line in lines)
    path.write_text(text + "\n]\n" if complete else text[:-7])
    return path


def merged(tmp_path, *sources):
    out = tmp_path / "all.json"
    assert main(["timeline", "merge", str(out), *map(str, sources)]) == 0
    return json.loads(out.read_text())


def test_merge_keeps_every_rank_a_process(tmp_path):
    events = merged(tmp_path, trace(tmp_path / "a", 0), trace(tmp_path / "b", 1))
    assert [event["pid"] for event in events] == [0, 0, 0, 1, 1, 1]
    assert events[1]["name"] == 'ALLREDUCE "ü"'
    assert events[1]["ts"] == 1700000000000001.5


def test_merge_takes_what_a_killed_rank_has_written(tmp_path, capsys):
    events = merged(tmp_path, trace(tmp_path / "a", 0), trace(tmp_path / "b", 1, complete=False))
    assert [event["pid"] for event in events] == [0, 0, 0, 1, 1]
    assert "b ends early" in capsys.readouterr().err


def test_merge_takes_traces_of_other_programs(tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"traceEvents": [{"ph": "X", "pid": 7}], "more": 1}, indent=1))
    assert merged(tmp_path, other) == [{"ph": "X", "pid": 7}]


def test_merge_tells_when_a_rank_comes_twice(tmp_path, capsys):
    merged(tmp_path, trace(tmp_path / "a", 0), trace(tmp_path / "b", 0))
    assert "rank 0 is in" in capsys.readouterr().err


def test_merge_refuses_what_is_no_timeline(tmp_path, capsys):
    (tmp_path / "text").write_text("hello\n")
    out = tmp_path / "out.json"
    out.write_text("as it was")
    assert main(["timeline", "merge", str(out), str(tmp_path / "text")]) == 1
    assert "is no timeline" in capsys.readouterr().err
    assert main(["timeline", "merge", str(out), str(tmp_path / "nowhere")]) == 1
    assert out.read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "text"]


def test_merge_does_not_overwrite_its_input(tmp_path):
    path = str(trace(tmp_path / "a", 0))
    with pytest.raises(SystemExit) as stopped:
        main(["timeline", "merge", path, path])
    assert stopped.value.code == 2


def write_log(path, lines):
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


LINES = [
    "1,warmup,0.1,1000,0.5000,0.8000,1024,512,0,64",
    "2,start,0.1,1000,2.0000,2.0000,1024,512,0,64",
    "3,screen,0.1,1000,1.0000,0.9000,2048,512,0,64",
    "4,settled,0.000000,0,0.0000,2.0000,1024,512,0,64",
]


def test_a_log_is_read_up_to_a_line_that_is_cut(tmp_path):
    samples = bench_plot.read_log(write_log(tmp_path / "log.csv", [*LINES[:2], "3,screen,0.1"]))
    assert [sample.phase for sample in samples] == ["warmup", "start"]
    assert samples[1].parameters == (1024, 512, 0, 64)
    assert bench_plot._best_so_far(samples)[1] == 2.0


def test_of_several_runs_in_a_log_the_last_counts(tmp_path):
    samples = bench_plot.read_log(write_log(tmp_path / "log.csv", [*LINES, HEADER, LINES[0]]))
    assert len(samples) == 1


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", HEADER + "\n"])
def test_what_is_no_log_is_refused(tmp_path, capsys, text):
    path = tmp_path / "log.csv"
    path.write_text(text)
    assert main(["bench", "plot", str(path)]) == 1
    assert str(path) in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_a_log_is_drawn(tmp_path):
    target = tmp_path / "plot.png"
    log = write_log(tmp_path / "log.csv", LINES)
    assert main(["bench", "plot", str(log), "-o", str(target)]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.backends.backend_agg", None)
    log = write_log(tmp_path / "log.csv", LINES)
    assert main(["bench", "plot", str(log), "-o", str(tmp_path / "plot.png")]) == 1
    assert "pip install 'hora[plot]'" in capsys.readouterr().err


def test_the_help_of_bench_names_the_plot(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    assert "plot LOG" in capsys.readouterr().out
