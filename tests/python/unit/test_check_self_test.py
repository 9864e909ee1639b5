"""``hora test`` without any rank: what its collectives must give, and how verdicts are reached."""

from __future__ import annotations

import json

import pytest
from hora.cli import self_test
from hora.cli.main import main
from hora.cli.self_test_report import WORK, Report

torch = pytest.importorskip("torch")
cases = pytest.importorskip("hora.cli.self_test_cases", exc_type=ImportError)


def case(part, dtype=torch.int32, count=4, reduction=""):
    return cases.Case(part, reduction, dtype, count)


def results(what, size=2):
    return [cases.expected(what, rank, size).tolist() for rank in range(size)]


def test_what_ranks_must_get():
    # Rank 0 gives 0 5 3 1, rank 1 gives 3 1 6 4.
    assert results(case("allreduce", reduction="sum")) == [[3, 6, 9, 5]] * 2
    assert results(case("allreduce", reduction="min")) == [[0, 1, 3, 1]] * 2
    assert (
        results(case("allreduce", torch.float16, reduction="average")) == [[1.5, 3, 4.5, 2.5]] * 2
    )
    assert (
        results(case("allreduce", torch.bool, reduction="max")) == [[False, True, True, True]] * 2
    )
    assert results(case("allreduce", reduction="product"))[0] == [2, 1, 1, 1]
    assert results(case("reducescatter", count=3, reduction="sum")) == [[3, 6], [9]]
    assert (
        results(case("allgather")) == [[0, 5, 3, 1]] * 2
    )  # the first half of what each would give
    assert results(case("alltoall")) == [[0, 5, 3, 1], [3, 1, 6, 4]]
    assert results(case("broadcast")) == [[3, 1, 6, 4]] * 2  # from rank 1


def test_values_do_not_repeat_with_a_power_of_two():
    source = case("broadcast", torch.uint8, count=1 << 18).source(0, 2)
    assert len(source) == 1 << 18
    assert not torch.equal(source[: 1 << 16], source[1 << 16 : 2 << 16])


def test_every_kind_is_tried_with_every_dtype_and_size():
    tried = list(cases.cases(seed=0))
    assert {one.part for one in tried} == set(cases.PARTS)
    assert len({one.dtype for one in tried if one.part == "allgather"}) == 11
    largest = {one.part: one.count * one.dtype.itemsize for one in tried}
    assert set(largest.values()) == {64 << 20}
    assert {one.count for one in tried if one.is_required} == {1, 1000}
    assert not any(one.is_required for one in cases.cases(seed=1))


def test_one_wrong_bit_is_found():
    found = torch.zeros(1000)
    found[7] = -0.0
    assert cases.difference(found, torch.zeros(1000)) == (
        "1 of 1000 elements are wrong; element 7 is -0.0 instead of 0.0"
    )
    assert cases.difference(torch.zeros(2), torch.zeros(2)) == ""
    assert cases.difference(torch.zeros(0), torch.zeros(0)) == ""
    assert "[3]" in cases.difference(torch.zeros(3), torch.zeros(2))


def feed(report, *messages):
    for message in messages:
        report.take(message)


def hello(size=2, hosts=1):
    return [{"kind": "hello", "rank": r, "size": size, "hosts": hosts} for r in range(size)]


def done(part, wrong=(0, 0)):
    return [
        {"kind": "part", "part": part, "rank": rank, "checks": 5, "wrong": count, "notes": ["x"]}
        for rank, count in enumerate(wrong)
    ]


def figures():
    names = ("allreduce_4B_us", "allreduce_64MiB_ms", "allreduce_64MiB_busbw_GBps")
    return [{"kind": "figure", "rank": 0, "name": name, "value": 1.0} for name in names]


def states(report):
    return {verdict.part: verdict.state for verdict in report.verdicts}


def test_all_well():
    report = Report()
    feed(report, *hello(hosts=2))
    for part in WORK:
        feed(report, *done(part))
    feed(report, *figures())
    report.end_work("")
    feed(report, {"kind": "survivor", "rank": 0, "victim": 1, "seconds": 0.1, "text": "rank 1 …"})
    report.end_death("")
    assert report.passed and set(states(report).values()) == {"passed"}
    assert report.verdicts[0].detail == "2 ranks on 2 hosts"
    assert report.verdicts[1].detail == "10 checks, x"
    assert report.verdicts[-1].detail == "rank 1 named by all others within 100 ms"


def test_a_wrong_result_on_one_rank_fails_its_part_alone():
    report = Report()
    feed(report, *hello(), {"kind": "wrong", "part": "join", "rank": 1, "text": "sum: 3, not 4"})
    for part in WORK:
        feed(report, *done(part, (0, 1) if part == "join" else (0, 0)))
    feed(report, *figures())
    report.end_work("")
    assert [part for part, state in states(report).items() if state == "failed"] == ["join"]
    (failed,) = [verdict for verdict in report.verdicts if verdict.state == "failed"]
    assert failed.detail == "1 of 10 checks: rank 1: sum: 3, not 4"


def test_a_part_is_not_decided_before_all_ranks_have_told():
    report = Report()
    feed(report, *hello(), done("allreduce")[0])
    assert "allreduce" not in report.decided


def test_an_error_fails_the_part_under_way_and_names_its_cause():
    report = Report()
    feed(report, *hello(), *done("allreduce"))
    for rank, kind in ((0, "PeerFailedError"), (1, "InternalError")):
        feed(report, {"kind": "error", "rank": rank, "type": kind, "text": "…"})
    report.end_work("exit code 1")
    found = {verdict.part: verdict for verdict in report.verdicts}
    assert found["grouped allreduce"].state == "failed"
    assert found["grouped allreduce"].detail == "rank 1: InternalError: …"
    assert found["allgather"].state == found["speed"].state == "skipped"


def test_ranks_that_never_start_fail_with_what_the_launcher_said():
    report = Report()
    report.end_work("hora: h2: ssh exit 255: Connection refused")
    assert report.verdicts[0].part == "start" and "h2" in report.verdicts[0].detail


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ([], "rank 0 said nothing"),
        ([(0.1, "the ring broke")], "rank 0 does not name rank 1"),
        ([(1.5, "rank 1 is gone")], "rank 0 took 1.50 s"),
    ],
)
def test_a_death_must_be_told_by_name_and_soon(told, problem):
    report = Report()
    feed(report, *hello())
    for seconds, text in told:
        feed(report, {"kind": "survivor", "rank": 0, "victim": 1, "seconds": seconds, "text": text})
    report.end_death("")
    assert report.verdicts[-1].state == "failed"
    assert problem in report.verdicts[-1].detail


@pytest.mark.parametrize(
    "words", [["--seconds", "0"], ["-np", "x"], ["--no-such-thing"], ["-H", "h1:2", "-np", "3"]]
)
def test_usage_errors_end_with_code_2(words, capsys):
    try:
        code = main(["test", *words])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert "hora test: " in capsys.readouterr().err


def test_other_options_are_horaruns():
    args, others = self_test._parser().parse_known_args(
        ["--ssh-port", "2222", "-H", "h1:2", "--backend", "gloo", "--seconds", "3"]
    )
    flags = self_test._flags(args, others)
    assert flags == ["--ssh-port", "2222", "--backend", "gloo", "--hosts=h1:2"]


@pytest.mark.parametrize(
    ("flags", "added"),
    [
        ([], True),
        (["--backend=gloo"], True),
        (["--num-proc=3"], False),
        (["--nproc-per-node=2"], False),
        (["--hosts=localhost:2"], False),
    ],
)
def test_a_number_of_ranks_is_chosen_where_it_is_open(flags, added):
    sized = self_test._sized(flags)
    assert sized[: len(flags)] == flags
    assert (len(sized) == len(flags) + 1) is added


def test_what_is_no_message_is_not_taken_for_one():
    report = Report()
    with pytest.raises((LookupError, TypeError, ValueError)):
        report.take(json.loads('{"kind": "part", "part": "nothing", "rank": 0}'))
