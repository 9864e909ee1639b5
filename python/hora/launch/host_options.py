"""The options that say where ranks run, and what they amount to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hora.errors import ResourceError, UsageError
from hora.launch.flags import NO_ELASTIC, Setting, add_settings, typed
from hora.launch.gpu_slices import visible_gpus
from hora.launch.hosts import Host, read_hosts
from hora.launch.job_spec import OneOfSeveralNodes, SeveralHosts
from hora.launch.placement import Placement
from hora.launch.secret_file import VARIABLE as SECRET_FILE
from hora.launch.ssh import SshOptions
from hora.launch.store import INTERFACES, checked_interfaces
from hora.settings import seconds, whole

_MASTER_PORT = 29500  # torchrun's
_MOST_NODES = 1 << 16
_COUNTED = ("gpu", "cpu", "auto")
_NETWORK = (
    Setting(("--network-interfaces", "--network-interface"), INTERFACES, checked_interfaces,
            "names or networks (eth0,10.0.0.0/8) that may be listened on; the first that is up "
            "counts, on each host; by default the way to the other hosts", "I"),
)  # fmt: skip
_SECRET = (
    Setting(("--secret-file",), SECRET_FILE, str,
            "with --nnodes: 64 hexadecimal digits, the same on all nodes, mode 0600", "F"),
)  # fmt: skip
# What one host has no use for: the flag and its destination.
_SEVERAL_ONLY = {
    "ssh_port": "--ssh-port", "ssh_identity_file": "--ssh-identity-file", INTERFACES:
    "--network-interfaces", "ssh_options": "--ssh-option", "remote_python": "--remote-python",
}  # fmt: skip


def add_host_options(parser: argparse.ArgumentParser) -> None:
    """Adds them in two groups: one launcher for all hosts, and one on each."""
    hosts = parser.add_argument_group("several hosts, started from here by ssh")
    hosts.add_argument(
        "--hosts", "-H", metavar="H:N,…", help="hosts and how many ranks each has room for"
    )
    hosts.add_argument(
        "--hostfile", "-hostfile", metavar="F",
        help="the same from a file: lines of HOST slots=N or HOST:N, # comments",
    )  # fmt: skip
    hosts.add_argument("--ssh-port", "-p", type=typed(whole(1, 65535)), metavar="P",
                       help="ssh's port on the hosts")  # fmt: skip
    hosts.add_argument("--ssh-identity-file", "-i", metavar="F", help="ssh's private key")
    hosts.add_argument(
        "--ssh-option", dest="ssh_options", action="append", default=[], metavar="O",
        help="passed on as ssh -o O (repeatable); all else is as in your ~/.ssh/config",
    )  # fmt: skip
    hosts.add_argument(
        "--remote-python", default="", metavar="F",
        help="the other hosts' Python (default: the same path as here)",
    )  # fmt: skip
    hosts.add_argument(
        "--connect-timeout", type=typed(seconds(3600, low=0.1)), default="4", metavar="S",
        help="give up on a host whose sshd does not answer (default 4); the login may take 6 more",
    )  # fmt: skip
    add_settings(hosts, _NETWORK)
    nodes = parser.add_argument_group("several hosts, horarun started once on each (as torchrun)")
    nodes.add_argument(
        "--nproc-per-node", dest="per_node", type=typed(_per_node), metavar="N",
        help="ranks on each host; gpu, cpu: as many as this host has of them; auto: gpu, or cpu "
        "where there is none",
    )  # fmt: skip
    nodes.add_argument("--standalone", action="store_true", help="one host: this one")
    nodes.add_argument("--nnodes", type=_nodes, metavar="N", help="number of hosts")
    nodes.add_argument("--node-rank", type=typed(whole(0, _MOST_NODES)), metavar="R",
                       help="this host's number, from 0")  # fmt: skip
    nodes.add_argument("--master-addr", metavar="A", help="an address of host 0")
    nodes.add_argument(
        "--master-port", type=typed(whole(1, 65534)), metavar="P",
        help=f"host 0 listens there (default {_MASTER_PORT}); the ranks' MASTER_PORT is the next",
    )  # fmt: skip
    add_settings(nodes, _SECRET)
    others = parser.add_argument_group("ranks that somebody else starts")
    starter = others.add_mutually_exclusive_group()
    starter.add_argument("--slurm", action="store_true",
                         help="srun, in the allocation of sbatch or salloc")  # fmt: skip
    starter.add_argument("--mpi", action="store_true",
                         help="the mpirun on PATH (Open MPI, MPICH), also on -H hosts")  # fmt: skip
    others.add_argument("--slurm-options", metavar="'…'", help="more options for srun")
    others.add_argument("--mpi-args", metavar="'…'", help="more options for mpirun")


def place_ranks(
    args: argparse.Namespace, environ: Mapping[str, str]
) -> tuple[Placement, SeveralHosts | OneOfSeveralNodes | None]:
    """How many ranks each host gets, and who starts them. Raises UsageError.

    ``environ`` is what the ranks will see of the settings. May block in the resolver.
    """
    if args.standalone:
        _refuse_hosts(args)
    if args.nnodes is not None and int(args.nnodes) > 1:
        return _one_of_several(args, environ)
    for flag in ("node_rank", "master_addr", "master_port"):
        value = getattr(args, flag)
        if value is not None and args.nnodes is None:
            raise UsageError(f"--{flag.replace('_', '-')} {value} needs --nnodes")
    node = int(args.node_rank or 0)
    if node > 0:
        raise UsageError(f"--node-rank {node} is not below --nnodes {args.nnodes}")
    hosts, size = hosts_and_size(args)
    placement = Placement.fill([host.slots for host in hosts] or [size], size)
    used = hosts[: len(placement.sizes)]
    if not used or (len(used) == 1 and used[0].is_here):
        return placement, None
    ssh = SshOptions(
        int(args.ssh_port) if args.ssh_port else None,
        args.ssh_identity_file,
        tuple(args.ssh_options),
        args.remote_python,
        float(args.connect_timeout),
    )
    return placement, SeveralHosts(used, ssh)


def hosts_and_size(args: argparse.Namespace) -> tuple[tuple[Host, ...], int]:
    """The hosts that were named, none for this one alone, and how many ranks there shall be.

    Raises UsageError when the options do not say, or contradict each other.
    """
    hosts = read_hosts(args.hosts, args.hostfile)
    per_node = _count_per_node(args.per_node)
    if per_node:
        hosts = tuple(replace(host, slots=per_node) for host in hosts)
    return hosts, _size(args, hosts, per_node)


def notes_on_one_host(given: argparse.Namespace, uses_network: bool = False) -> list[str]:
    """One line on options that a job on this host has no use for."""
    flags = [
        flag for name, flag in _SEVERAL_ONLY.items()
        if getattr(given, name, None) and not (name == INTERFACES and uses_network)
    ]  # fmt: skip
    have = "has" if len(flags) == 1 else "have"
    because = "all ranks are on this host, which needs no network"
    return [f"{', '.join(flags)} {have} no effect: {because}"] if flags else []


def _size(args: argparse.Namespace, hosts: tuple[Host, ...], per_node: int | None) -> int:
    """The number of ranks: -np, or else what the other options amount to."""
    slots = sum(host.slots for host in hosts) or None
    limits = {int(limit) for limit in (args.min_size, args.max_size) if limit}
    per_node = None if slots else per_node
    size = args.size or (limits.pop() if len(limits) == 1 else None) or slots or per_node
    if size is None:
        raise UsageError("how many ranks? Give -np N")
    size = int(size)
    if per_node and per_node != size:
        raise UsageError(f"-np {size} with --nproc-per-node {per_node} on one host: give one")
    for flag, limit in (("--min-np", args.min_size), ("--max-np", args.max_size)):
        if limit and int(limit) != size:
            raise UsageError(f"{flag} {limit} with {size} ranks: {NO_ELASTIC}")
    if slots is not None and size > slots:
        where = "--hosts" if args.hosts else "--hostfile"
        raise UsageError(f"-np {size}, but {where} has room for {slots}")
    return size


def _one_of_several(
    args: argparse.Namespace, environ: Mapping[str, str]
) -> tuple[Placement, OneOfSeveralNodes]:
    count = int(args.nnodes)
    if args.hosts or args.hostfile:
        raise UsageError(f"--nnodes {count} with --hosts or --hostfile: one of them starts ranks")
    if args.node_rank is None or args.master_addr is None:
        missing = "--node-rank" if args.node_rank is None else "--master-addr"
        raise UsageError(f"--nnodes {count} needs {missing}")
    node = int(args.node_rank)
    if node >= count:
        raise UsageError(f"--node-rank {node} is not below --nnodes {count}")
    size = args.size and int(args.size)
    if args.per_node is None and (size is None or size % count):
        raise UsageError(f"--nnodes {count} needs --nproc-per-node, the ranks on each host")
    per_node = _count_per_node(args.per_node) or size // count
    if size not in (None, per_node * count):
        raise UsageError(f"-np {size} is not {count} nodes × {per_node} ranks")
    secret = environ.get(SECRET_FILE)
    if not secret:
        raise UsageError(
            f"--nnodes {count} needs --secret-file (or {SECRET_FILE}): the same file on all nodes, "
            "made with (umask 077; openssl rand -hex 32 > FILE)"
        )
    port = int(args.master_port or _MASTER_PORT)
    where = OneOfSeveralNodes(node, args.master_addr, port, Path(secret))
    return Placement((per_node,) * count), where


def _refuse_hosts(args: argparse.Namespace) -> None:
    given = [flag for flag, value in (("--hosts", args.hosts), ("--hostfile", args.hostfile),
                                      ("--master-addr", args.master_addr)) if value]  # fmt: skip
    given += [f"--nnodes {args.nnodes}"] if int(args.nnodes or 1) > 1 else []
    if given:
        raise UsageError(f"--standalone is for this host alone: drop it, or {', '.join(given)}")


def _per_node(word: str) -> str:
    """A number, or one of torchrun's words. Raises ValueError."""
    if word in _COUNTED:
        return word
    try:
        return whole(1, 1 << 20)(word)
    except ValueError as error:
        raise ValueError(f"{error}, gpu, cpu or auto") from None


def _count_per_node(word: str | None) -> int | None:
    """Counts what the word stands for; blocks while the GPUs are asked for. Raises UsageError."""
    if word not in _COUNTED:
        return None if word is None else int(word)
    gpus, why = 0, "this host has none that may be used"
    if word != "cpu":
        try:
            gpus = len(visible_gpus(os.environ))
        except ResourceError as error:
            why = str(error)
    if word == "gpu" and not gpus:
        raise UsageError(f"--nproc-per-node gpu: {why}")
    return gpus or len(os.sched_getaffinity(0))


def _nodes(word: str) -> str:
    least, colon, most = word.partition(":")
    if colon and least != most:
        raise argparse.ArgumentTypeError(f"{word!r}: {NO_ELASTIC}")
    return str(typed(whole(1, _MOST_NODES))(least))
