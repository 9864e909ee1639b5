"""benchmarks/peers: what workers answer, what is made of it, and the tables."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

PEERS = Path(__file__).resolve().parents[3] / "benchmarks" / "peers"
RECORDED = PEERS.parent / "results" / "peers.jsonl"


@pytest.fixture(autouse=True)
def _peers_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(PEERS))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:  # their names are short: leave them to others
        if str(PEERS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def module(name):
    return importlib.import_module(name)


def sized(peer, nbytes, time_us, mode="default", ranks=2, **more):
    what = {"section": "sizes", "op": "allreduce", "dtype": "float32"}
    where = {"peer": peer, "mode": mode, "ranks": ranks, "bytes": nbytes}
    return {**what, **where, "time_us": time_us, **more}


def test_an_order_names_everything():
    case = module("protocol").Case("allreduce", 4096, "bfloat16", "zero")
    assert case.order(10, 3, True) == "run allreduce bfloat16 4096 zero 10 3 1"


def test_answers_of_ranks_become_one():
    protocol = module("protocol")
    answers = [protocol.parse_answer(line) for line in ("ok 1 2.5 7\n", "ok 2 3.5 6\n")]
    merged = protocol.merge(answers)
    assert merged.wrong == 3
    assert merged.times_us == [3.5, 7]  # a collective is over when the slowest rank is


def test_one_refusal_refuses():
    protocol = module("protocol")
    lines = ("ok 0 1", "unsupported mode zero")
    assert protocol.merge([protocol.parse_answer(line) for line in lines]).refusal == "mode zero"


@pytest.mark.parametrize("line", ["", "ok", "ok x", "ok 0 fast", "what"])
def test_what_is_no_answer_is_refused(line):
    protocol = module("protocol")
    with pytest.raises(protocol.ProtocolError):
        protocol.parse_answer(line)


def test_sizes_are_written_as_they_are_read():
    protocol = module("protocol")
    for nbytes in (4, 1 << 10, 3 << 20, 1 << 30):
        assert protocol.parse_bytes(protocol.format_bytes(nbytes)) == nbytes


def test_short_calls_are_timed_several_at_once():
    plan = module("measuring").Plan
    assert plan.for_time(0.2) == plan(40, 200)
    assert plan.for_time(50_000) == plan(3, 1)


def test_the_network_of_a_burst_is_resnet50():
    sizes = module("sections").resnet50()
    assert (len(sizes), sum(sizes)) == (161, 25_557_032)


def test_goals_are_met_missed_or_open():
    goals = module("goals")
    records = [
        sized("hora-core", 4, 0.2, "ordered"),
        sized("openmpi", 4, 0.3),
        sized("mpich", 4, 0.1),
        sized("hora", 4, 6.0),
    ]
    rows = {(row.goal, row.what): row for row in goals.table(records)}
    assert rows["P1", "4 B, core, ordered"].met is False
    assert rows["P1", "4 B, core, ordered"].reached == "0.50 × (0.2 against 0.1 µs)"
    assert rows["P2", "4 B, Python, by name"].met is False
    assert rows["P4", "64 KiB, core"].met is None
    assert "**missed**" in goals.markdown(rows.values())
    assert {row.goal for row in rows.values()} == {f"P{n}" for n in range(1, 20)}


def test_goals_of_two_hosts_are_of_gloos_better_side():
    goals = module("goals")
    over_hosts = {"section": "hosts", "ranks": 4}
    mib16 = 16 << 20
    records = [
        sized("hora-auth", 4, 50.0, **over_hosts),
        sized("gloo-bound", 4, 3000.0, **over_hosts),
        sized("gloo-unbound", 4, 900.0, **over_hosts),
        sized("hora-auth", mib16, 10_000.0, **over_hosts),
        sized("hora-tls", mib16, 25_000.0, **over_hosts),
        sized("hora-flat", mib16, 17_000.0, **over_hosts),
        {
            "section": "links",
            "peer": "hora-auth",
            "bytes": mib16,
            "sent_bytes": 105,
            "least_bytes": 100,
        },
        {"section": "slow links", "peer": "hora-auth", "mbit_per_s": 100, "share": 0.89},
    ]
    rows = {row.what: row for row in goals.table(records)}
    assert rows["two hosts, 4 B"].met is False
    assert "18.00 ×" in rows["two hosts, 4 B"].reached
    assert rows["two hosts, 4 B"].wanted == "≥ 20 × gloo-unbound"
    assert rows["two hosts, 16 MiB, beside the flat ring"].met
    assert rows["two hosts, 16 MiB, TLS beside authenticated"].met is False
    assert rows["bytes on each host's link, 16 MiB"].met
    assert rows["share of a line of 100 Mbit/s"].met is False
    assert rows["share of a line of 1,000 Mbit/s"].met is None


def test_a_library_between_hosts_is_held_against_its_best_flat_way():
    over_hosts = {"section": "hosts", "ranks": 4}
    mib16 = 16 << 20
    records = [
        sized("hora-over-gloo", mib16, 10_000.0, **over_hosts),
        sized("hora-flat-gloo", mib16, 18_500.0, **over_hosts),
        sized("hora-over-mpi", mib16, 10_000.0, **over_hosts),
        sized("hora-flat-mpi", mib16, 19_000.0, **over_hosts),
        sized("openmpi", mib16, 17_000.0, **over_hosts),
    ]
    rows = {row.what: row for row in module("goals").table(records)}
    assert rows["between hosts by gloo, 16 MiB"].met
    assert rows["between hosts by Open MPI, 16 MiB"].met is False
    assert rows["between hosts by Open MPI, 16 MiB"].wanted == "≥ 1.8 × openmpi"
    assert rows["between hosts by gloo, 64 MiB"].met is None


def test_mpi_moves_data_for_those_that_mpirun_starts(tmp_path):
    hosts = module("hosts")
    installed = module("installation").Installation(tmp_path)
    without = [peer.name for peer in hosts.all_peers(hosts.Cable(), installed)]
    installed.versions["openmpi"] = "openmpi 5"
    peers = {peer.name: peer for peer in hosts.all_peers(hosts.Cable(), installed)}
    assert [name for name in peers if name not in without] == [
        "hora-over-mpi",
        "hora-flat-mpi",
        "openmpi",
    ]
    for name, backend in (("hora-over-mpi", "mpi"), ("hora-flat-mpi", "flat-mpi")):
        assert peers[name].environment["HORA_BACKEND"] == backend
        assert str(tmp_path / "openmpi" / "bin" / "mpiexec") in peers[name].command
    assert "HORA_BACKEND" not in peers["openmpi"].environment
    assert [name for name, peer in peers.items() if not peer.in_python] == ["openmpi"]


def test_hosts_share_the_cores_out():
    hosts = module("hosts")
    assert [hosts.cores_of(host, [0, 1, 2, 5]) for host in (0, 1)] == [[0, 2], [1, 5]]
    assert hosts.cores_of(1, [3]) == [3]


def test_the_last_figure_counts_and_refusals_do_not():
    figures = module("goals").Figures(
        [sized("gloo", 4, 9.0), sized("gloo", 4, 8.0), sized("gloo", 4, None, refusal="gone")]
    )
    assert figures.us("gloo", 4) == 8.0


def test_distance_to_the_limit_of_memory():
    pictures = module("pictures")
    limit = sized("memory", 1 << 20, 20.0, "in_place")
    times = pictures.curves([sized("gloo", 1 << 20, 80.0), limit], 2, "time_us")
    assert pictures.to_limit(times) == {"gloo": [(1 << 20, 4.0)]}


def test_the_table_goes_between_its_comments():
    table = module("readme_table")
    page = f"above\n{table.BEGIN}\nold\n{table.END}\nbelow\n"
    assert table.replaced(page, "new") == f"above\n{table.BEGIN}\nnew\n{table.END}\nbelow\n"
    with pytest.raises(ValueError, match="README"):
        table.replaced("nothing", "new")


@pytest.mark.skipif(not RECORDED.exists(), reason=f"no run of make bench is recorded in {RECORDED}")
def test_the_readme_shows_the_last_run():
    assert module("readme_table").main(["--check"]) == 0, (
        "run: python benchmarks/peers/readme_table.py"
    )


WORKER = """
import sys
folder, rank, ranks = sys.argv[1:]
with open(f"{folder}/in.{rank}") as orders, open(f"{folder}/out.{rank}", "w", buffering=1) as out:
    print("ready", ranks, file=out)
    for line in orders:
        if line.startswith("quit"):
            break
        if line.startswith("die"):
            sys.exit("worker: told to die")
        print("ok 0", 10 + int(rank), file=out)
"""


@pytest.fixture
def echo(tmp_path):
    program = tmp_path / "worker.py"
    program.write_text(WORKER)
    command = (sys.executable, str(program), "{folder}", "{rank}", "{ranks}")
    driver = module("driver")
    return driver, driver.Peer("echo", command, per_rank=True)


def test_the_driver_asks_all_ranks_and_ends_them(echo):
    driver, peer = echo
    with driver.RunningPeer(peer, 3) as running:
        assert running.ask("run").times_us == [12]
        family = running.processes()
        assert len(family) == 3
    assert not any(process.is_running() for process in family)
    assert not running.folder.exists()


def test_the_driver_says_why_a_peer_is_gone(echo):
    driver, peer = echo
    with driver.RunningPeer(peer, 2) as running:
        with pytest.raises(driver.PeerError, match="told to die"):
            running.ask("die")
        with pytest.raises(driver.PeerError, match="told to die"):
            running.ask("run")


def test_an_entrant_that_breaks_is_left_out(echo):
    driver, peer = echo
    measuring, protocol = module("measuring"), module("protocol")

    class Dying(protocol.Case):
        def order(self, samples, calls, check):
            return "die"

    with driver.RunningPeer(peer, 2) as first, driver.RunningPeer(peer, 2) as second:
        good = measuring.Entrant(first, protocol.Case("allreduce", 4))
        bad = measuring.Entrant(second, Dying("allreduce", 4))
        tallies = measuring.interleave([good, bad], rounds=3)
    assert tallies[good].medians_us == [11, 11, 11]
    assert "told to die" in tallies[bad].refusal
    assert measuring.record(good, tallies[good])["time_us"] == 11
    assert "time_us" not in measuring.record(bad, tallies[bad])
