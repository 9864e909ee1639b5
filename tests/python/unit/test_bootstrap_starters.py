"""Ranks of srun and mpirun: what their variables may be, and the files in which they agree."""

from __future__ import annotations

import json
import os
import socket
import threading
import time

import pytest
from hora import bootstrap, runtime
from hora.bootstrap import detect
from hora.errors import HoraError, UsageError
from hora.starters import file_board, problem_watch, siblings, torchrun
from hora.starters.ancestors import Ancestor
from hora.starters.board import HostEntry, ToldError
from hora.starters.file_board import FileBoard
from hora.starters.siblings import Siblings
from hora.starters.slurm import tasks_per_node

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}  # fmt: skip
MPICH = {"PMI_RANK": "0", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "4"}
SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}  # fmt: skip
# A sound rank beside one with garbage: of mpirun, and of srun.
OTHER = [
    {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"},
]
GARBAGE = ["", "abc", "-1", "99999999999", "1.5", "٣"]


@pytest.fixture(autouse=True)
def forget(monkeypatch, tmp_path):
    """Each test is a process that has not asked before, and leaves no file."""
    monkeypatch.setattr(bootstrap, "_remembered", {})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(siblings, "_ROOT", str(tmp_path))
    yield
    bootstrap.have_met()


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in (OPEN_MPI, MPICH, SLURM) for name in family],
)
def test_garbage_in_a_variable(family, name, value):
    with pytest.raises(UsageError, match=rf"{name}={value!r} is not a (whole number from|list)"):
        detect({**family, name: value}, timeout=0)


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in (OPEN_MPI, MPICH, SLURM) for name in family],
)
def test_a_missing_variable(family, name):
    environ = {key: value for key, value in family.items() if key != name}
    if name in ("SLURM_STEP_ID", "SLURM_PROCID"):  # the script of sbatch, the shell of salloc
        assert detect(environ, timeout=0).launcher == "none"
        return
    with pytest.raises(UsageError, match=f"{name} not set although"):
        detect(environ, timeout=0)


@pytest.mark.parametrize("step", ["4294967291", "batch", "interactive"])
def test_what_is_no_step_of_srun_is_a_single_process(step):
    assert detect({**SLURM, "SLURM_STEP_ID": step}, timeout=0).launcher == "none"


def test_tasks_per_node():
    assert tasks_per_node("2(x3),1", 7) == [2, 2, 2, 1]
    assert tasks_per_node("4", 4) == [4]
    for text in ("2(x3", "0", "2,,2", "2(x0),4", "1(x9999999)", "5", "3", "4,"):
        with pytest.raises(UsageError, match="SLURM_STEP_TASKS_PER_NODE="):
            tasks_per_node(text, 4)


def test_tasks_that_go_round_the_nodes(tmp_path):
    environ = {**SLURM, "SLURM_PROCID": "1", "SLURM_NODEID": "1"}
    environ["HORA_RENDEZVOUS_DIR"] = str(tmp_path)
    with pytest.raises(UsageError, match=r"SLURM_PROCID=1 .* would be rank 2 .*distribution=block"):
        detect(environ, timeout=0)


@pytest.mark.parametrize("job", ["", "../x", "a b", "a" * 65, "ä"])
def test_garbage_as_the_jobs_id(job):
    with pytest.raises(UsageError, match="HORA_JOB_ID="):
        detect({**OPEN_MPI, "HORA_JOB_ID": job}, timeout=0)


def test_mpirun_that_tells_no_job():
    for family in (OPEN_MPI, MPICH):
        with pytest.raises(UsageError, match="Set HORA_JOB_ID"):
            detect(family, timeout=0)


@pytest.mark.parametrize("family", [OPEN_MPI, MPICH, SLURM])
def test_one_rank_needs_no_file(tmp_path, family):
    one = {**family, "HORA_RENDEZVOUS_DIR": str(tmp_path / "jobs")}
    for name, value in family.items():
        one[name] = {"4": "1", "2(x2)": "1"}.get(value, value)
    assert detect(one, timeout=0).size == 1
    assert not (tmp_path / "jobs").exists()


def test_ranks_of_one_host_agree(tmp_path):
    common = {**OPEN_MPI, "HORA_JOB_ID": "j", "HORA_RENDEZVOUS_DIR": str(tmp_path / "jobs")}
    ranks = [
        {**common, "OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_LOCAL_RANK": str(rank)}
        for rank in range(2)
    ]
    first = detect(ranks[0], timeout=5)
    second = detect(ranks[1], timeout=5)
    assert first.key == second.key
    assert (first.rendezvous, first.job_id) == (second.rendezvous, second.job_id)
    assert (second.rank, second.size, second.launcher) == (1, 4, "openmpi")
    assert second.listen_fd is None
    (file,) = (tmp_path / "jobs").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    bootstrap.have_met()
    assert not file.exists()
    os.close(first.listen_fd or 0)


def board(folder, timeout=5.0):
    return FileBoard("job", {"HORA_RENDEZVOUS_DIR": str(folder)}, timeout)


def test_rank_0_that_never_comes(tmp_path):
    with pytest.raises(HoraError, match=r"rank 0 has not written .*must share the folder"):
        board(tmp_path / "jobs", 0.05).read()


def test_who_waits_for_long_says_so(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(file_board, "_SILENT_S", 0.0)
    with pytest.raises(HoraError):
        board(tmp_path / "jobs", 0.1).read()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("hora: still waiting: rank 0 has not written ")


def test_hosts_that_never_come_are_counted(tmp_path):
    one = board(tmp_path / "jobs", 0.05)
    one.add_host(HostEntry(0, 2, "h1"))
    with pytest.raises(HoraError, match="of 4 ranks there are only h1 with 2 ranks"):
        one.hosts(4)
    one.clear()


def test_words_are_waited_for(tmp_path):
    reader, writer = board(tmp_path / "jobs"), board(tmp_path / "jobs")
    timer = threading.Timer(0.1, writer.publish, ["hello"])
    timer.start()
    assert reader.read() == "hello"
    timer.join()
    writer.clear()
    assert list((tmp_path / "jobs").iterdir()) == []


def test_what_a_dead_process_left_is_replaced(tmp_path, monkeypatch):
    dead = board(tmp_path / "jobs")
    here = file_board._this_process()
    monkeypatch.setattr(file_board, "_this_process", lambda: [here[0], here[1], here[2] - 1])
    dead.publish("old")
    monkeypatch.undo()
    with pytest.raises(HoraError, match="rank 0 has not written"):
        board(tmp_path / "jobs", 0.01).read()
    new = board(tmp_path / "jobs")
    new.publish("new")
    assert board(tmp_path / "jobs").read() == "new"
    new.clear()


def test_a_problem_ends_every_wait(tmp_path):
    waiting = [board(tmp_path / "jobs", 20) for _ in range(2)]
    writer = board(tmp_path / "jobs")
    timer = threading.Timer(0.1, writer.leave_problem, ["no disk"])
    timer.start()
    with pytest.raises(ToldError, match="no disk"):
        waiting[0].read()
    with pytest.raises(ToldError, match="no disk"):
        waiting[1].hosts(4)
    timer.join()
    writer.clear()
    assert board(tmp_path / "jobs").problem() == "no disk", "for those who come later"


def test_an_old_problem_is_nobodys(tmp_path):
    board(tmp_path / "jobs").leave_problem("no disk")
    (note,) = (tmp_path / "jobs").iterdir()
    os.utime(note, (0, 0))
    assert board(tmp_path / "jobs").problem() == ""
    assert not note.exists()


@pytest.mark.parametrize(
    ("family", "garbage"),
    [(OPEN_MPI, {"OMPI_COMM_WORLD_RANK": "x"}), (SLURM, {"SLURM_PROCID": "x"})],
    ids=["mpirun", "srun"],
)
def test_garbage_of_one_rank_is_told_to_all(tmp_path, family, garbage):
    common = {**family, "HORA_JOB_ID": "j", "HORA_RENDEZVOUS_DIR": str(tmp_path / "jobs")}
    name, value = next(iter(garbage.items()))
    with pytest.raises(UsageError, match=f"^{name}={value!r}"):
        detect({**common, **garbage}, timeout=0)
    with pytest.raises(UsageError, match=f"a process on .* cannot join: {name}={value!r}"):
        detect({**common, **OTHER[family is SLURM]}, timeout=20)


@pytest.mark.parametrize(
    "name", ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "HORA_JOB_ID"]
)
def test_a_job_that_is_garbage_in_one_task_is_told_to_all(tmp_path, name):
    again = {"SLURM_JOBID": "7", "SLURM_STEPID": "0"}
    common = {**SLURM, **again, "HORA_RENDEZVOUS_DIR": str(tmp_path / "jobs")}
    with pytest.raises(UsageError, match=f"^{name}='x/'"):
        detect({**common, name: "x/"}, timeout=0)
    with pytest.raises(UsageError, match=f"a process on .* cannot join: {name}='x/'"):
        detect({**common, **OTHER[True]}, timeout=20)


def test_a_job_that_is_said_twice_must_be_the_same():
    for name, again in (("SLURM_JOB_ID", "SLURM_JOBID"), ("SLURM_STEP_ID", "SLURM_STEPID")):
        with pytest.raises(UsageError, match=f"{name}='[70]', but {again}='8': srun sets both"):
            detect({**SLURM, again: "8"}, timeout=0)
    ours = {**OPEN_MPI, "PMIX_NAMESPACE": "prterun-h-1@1"}
    with pytest.raises(UsageError, match="is no job of the mpirun whose daemon is 'prterun-h-2@0'"):
        detect({**ours, "PMIX_SERVER_URI2": "prterun-h-2@0.0;tcp4://127.0.0.1:1"}, timeout=0)


@pytest.mark.parametrize("again", ["OMPI_MCA_orte_ess_num_procs", "OMPI_WORLD_SIZE"])
def test_a_world_of_one_by_mistake(again):
    one = {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "1", again: "4"}
    with pytest.raises(UsageError, match=f"OMPI_COMM_WORLD_SIZE='1', but {again}='4'"):
        detect({**OPEN_MPI, **one}, timeout=0)


def test_a_step_without_its_number_is_no_single_process():
    """Only srun sets the nodes of a step: it is neither a script of sbatch nor a shell."""
    step = {**SLURM, "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "n[1-2]"}
    for name in ("SLURM_PROCID", "SLURM_STEP_ID"):
        rest = {key: value for key, value in step.items() if key != name}
        with pytest.raises(UsageError, match=f"{name} not set although") as caught:
            detect(rest, timeout=0)
        # Whoever wants a single process unsets what the error names.
        for key in str(caught.value).split(" not set although ")[1].split(" set: ")[0].split(", "):
            del rest[key]
        assert detect(rest, timeout=0).launcher == "none"


def test_siblings_hear_whatever_job_they_look_for(tmp_path):
    two = [Siblings(os.getppid()) for _ in range(2)]
    two[0].check("job 1")
    two[1].check("job 1")
    with pytest.raises(UsageError, match=r"this rank was told job 2; .* was told job 1"):
        two[1].check("job 2")
    two[1].leave_problem("no disk")
    common = {"HORA_RENDEZVOUS_DIR": str(tmp_path / "jobs")}
    with pytest.raises(ToldError, match="no disk"):
        FileBoard("job", common, 20, two[0].problem).read()
    assert board(tmp_path / "jobs").problem() == "no disk", "for those on other hosts"
    assert Siblings(os.getppid(), "again").problem() == ""
    two[0].clear()


def assert_alone(one):
    one.check("job 1")
    one.check("job 2")
    one.leave_problem("no disk")
    assert one.problem() == ""
    one.clear()


def no_machine():
    raise FileNotFoundError("boot_id")


def test_siblings_without_a_launcher_or_a_folder_are_alone(tmp_path, monkeypatch):
    assert_alone(Siblings(0))
    (tmp_path / "file").touch()
    monkeypatch.setattr(siblings, "_ROOT", str(tmp_path / "file"))
    assert_alone(Siblings(os.getppid()))
    monkeypatch.setattr(siblings, "_ROOT", str(tmp_path))
    monkeypatch.setattr(siblings, "this_machine", no_machine)
    assert_alone(Siblings(os.getppid()))


def below(monkeypatch, *processes):
    """Each is the kernel's name of a process, or a command line."""
    found = [
        Ancestor(os.getppid(), line.split("/")[-1][:15], (*line.split(), "")) for line in processes
    ]
    monkeypatch.setattr(siblings, "ancestors", lambda: iter(found))


@pytest.mark.parametrize(
    ("processes", "has_siblings"),
    [
        (["slurmstepd"], True),
        (["bash", "mpirun", "slurmstepd"], True),
        (["hydra_pmi_proxy"], True),
        (["mpiexec.openmpi"], True),
        (["mpirun_sweep.sh", "bash"], False),
        (["prted"], False),
        (["prte", "slurmstepd"], False),
        ([], False),
    ],
)
def test_processes_that_start_one_job_only(monkeypatch, processes, has_siblings):
    below(monkeypatch, *processes)
    Siblings.of_daemon().leave_problem("no disk")
    assert Siblings.of_daemon().problem() == "no disk" * has_siblings


@pytest.mark.parametrize(
    ("line", "is_torchrun"),
    [
        ("/bin/python3 /venv/bin/torchrun --nproc-per-node 4 train.py", True),
        ("torchrun train.py", True),
        ("python -u -m torch.distributed.run train.py", True),
        ("python -m torch.distributed.launch train.py", True),
        ("python -m pytest tests/torchrun", False),
        ("python -m ipykernel_launcher -f torchrun", False),
        ("python tune.py torchrun", False),
        ("python -m", False),
        ("bash torch.distributed.run", False),
    ],
)
def test_only_the_ranks_of_a_torchrun_are_siblings(monkeypatch, line, is_torchrun):
    """Other programs may call ``elastic_launch`` twice in a row, or twice at once."""
    below(monkeypatch, line)
    job = {"TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    torchrun._siblings(job).leave_problem("no disk")
    assert torchrun._siblings(job).problem() == "no disk" * is_torchrun
    assert torchrun._siblings({**job, "WORLD_SIZE": "1"}).problem() == ""


def test_groups_of_one_torchrun_are_told_apart_where_they_may_be(monkeypatch):
    below(monkeypatch, "torchrun train.py")

    def join(port, store, run="a"):
        told = {"MASTER_ADDR": "h", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": run}
        told["TORCHELASTIC_USE_AGENT_STORE"] = store
        joined.append(torchrun._siblings(told))
        joined[-1].check(torchrun._where(told))
        return joined[-1]

    joined: list[Siblings] = []
    join("1", "False").leave_problem("no disk")
    assert join("2", "False").problem() == ""
    with pytest.raises(UsageError, match=r"TORCHELASTIC_RUN_ID=b; but .*TORCHELASTIC_RUN_ID=a"):
        join("2", "False", "b")
    join("3", "True")
    with pytest.raises(UsageError, match=r"MASTER_PORT=4, .*MASTER_PORT=3"):
        join("4", "True")
    for one in joined:
        one.clear()


def test_a_note_from_before_the_start_is_of_another_job(tmp_path, monkeypatch):
    board(tmp_path / "jobs").leave_problem("no disk")
    started, ticks = file_board.when_started, os.sysconf("SC_CLK_TCK")
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * ticks)
    for ago_s, heard in ((0, "no disk"), (-5, "")):  # who started now, and who will
        monkeypatch.setattr(file_board, "when_started", lambda _, at=now - ago_s * ticks: at)
        assert board(tmp_path / "jobs").problem() == heard
    monkeypatch.setattr(file_board, "when_started", started)
    monkeypatch.setattr(file_board, "this_machine", lambda: "another, whose clock is its own")
    assert board(tmp_path / "jobs").problem() == "no disk"


def test_what_killed_siblings_left_is_removed(tmp_path, monkeypatch):
    killed = Siblings(os.getppid(), "killed")
    here = file_board._this_process()
    monkeypatch.setattr(file_board, "_this_process", lambda: [here[0], here[1], here[2] - 1])
    killed.check("job 1")
    monkeypatch.undo()
    folder = tmp_path / f"hora-{os.geteuid()}"
    assert len(list(folder.iterdir())) == 1
    living = FileBoard("siblings-living", {"HORA_RENDEZVOUS_DIR": str(folder)}, 0)
    living.first_words("job 2")
    board(folder)
    assert [path.name for path in folder.iterdir()] == ["siblings-living.first"]
    living.clear()


def test_another_key_is_told_to_all(tmp_path):
    keys = []
    for number in range(2):
        keys.append(tmp_path / f"key{number}")
        keys[-1].touch(0o600)
        keys[-1].write_text(f"{number}" * 64)
    common = {**OPEN_MPI, "HORA_JOB_ID": "j", "HORA_RENDEZVOUS_DIR": str(tmp_path / "jobs")}
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problem_watch, "tell_peers", lambda *words: told.append(words))
        first = detect({**common, "HORA_SECRET_FILE": str(keys[0])}, timeout=5)
        other = {**common, **OTHER[False], "HORA_SECRET_FILE": str(keys[1])}
        with pytest.raises(UsageError, match="holds another key here than rank 0 has"):
            detect(other, timeout=5)
        deadline = time.monotonic() + 20
        while not told:  # rank 0 has gone on, and hears of it all the same
            assert time.monotonic() < deadline
            time.sleep(0.01)
    (place, rank, problem) = told[0]
    assert (place, rank) == (first, -1)
    assert "rank 1 on" in problem and "HORA_SECRET_FILE" in problem
    os.close(first.listen_fd or 0)


def test_another_number_of_ranks_is_named(tmp_path, monkeypatch):
    common = {**OPEN_MPI, "HORA_JOB_ID": "j", "HORA_RENDEZVOUS_DIR": str(tmp_path / "jobs")}
    monkeypatch.setattr(problem_watch, "tell_peers", lambda *words: None)
    first = detect(common, timeout=5)
    late = {"OMPI_COMM_WORLD_RANK": "6", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}
    with pytest.raises(UsageError, match=r"rank 6 .* one of 7 ranks, rank 0 as one of 4"):
        detect({**common, **late, "OMPI_COMM_WORLD_SIZE": "7"}, timeout=5)
    os.close(first.listen_fd or 0)


def test_rank_0_that_ends_before_it_tells(tmp_path, monkeypatch):
    common = {**OPEN_MPI, "HORA_JOB_ID": "j", "HORA_RENDEZVOUS_DIR": str(tmp_path / "jobs")}
    monkeypatch.setattr(problem_watch, "tell_peers", lambda *words: None)
    with socket.socket(fileno=detect(common, timeout=5).listen_fd) as listener:

        def end() -> None:
            connection, _ = listener.accept()
            FileBoard("openmpi-j", common, 0).leave_problem("no disk")
            connection.close()

        thread = threading.Thread(target=end)
        thread.start()
        for name, value in {**common, **OTHER[False]}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UsageError, match="no disk"):
            runtime.init()
        thread.join()


def test_two_jobs_of_one_name(tmp_path):
    one = board(tmp_path / "jobs")
    one.publish("one")
    with pytest.raises(UsageError, match="set HORA_JOB_ID differently"):
        board(tmp_path / "jobs").publish("two")
    assert json.loads((tmp_path / "jobs" / "job.meet").read_text())["words"] == "one"
    one.clear()


def test_a_folder_or_file_that_others_can_reach_is_refused(tmp_path):
    folder = tmp_path / "jobs"
    folder.mkdir(mode=0o755)
    with pytest.raises(UsageError, match="has mode 0755: others can reach it"):
        board(folder)
    folder.chmod(0o700)
    (folder / "job.meet").write_text("{}")
    (folder / "job.meet").chmod(0o644)
    with pytest.raises(UsageError, match="has mode 0644"):
        board(folder).read()
    (folder / "job.meet").chmod(0o600)
    with pytest.raises(UsageError, match="is not a file of this version"):
        board(folder).read()
    (folder / "job.meet").unlink()
    (folder / "job.meet").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match=r"job\.meet"):
        board(folder).read()
