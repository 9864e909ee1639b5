"""Who takes part, and how each is started with its best sane settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from driver import Peer
from installation import Installation

HERE = Path(__file__).resolve().parent
NATIVE = ("openmpi", "mpich", "intelmpi", "oneccl")
MPI = ("openmpi", "mpich", "intelmpi")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def _native(name: str, installed: Installation, ranks: int) -> Peer:
    """Ranks sit on cores of their own; where cores are too few, libraries are told to yield."""
    root = installed.root(name)
    crowded = ranks > usable_cores()
    worker = str(installed.worker(name))
    libraries = {"LD_LIBRARY_PATH": str(root / "lib")}
    binding: tuple[str, ...] = ()
    own: dict[str, str] = {}
    if name == "openmpi":
        binding = ("--bind-to", "none", "--oversubscribe") if crowded else ("--bind-to", "core")
        own = {
            "OMPI_MCA_btl": "self,sm",
            "OMPI_MCA_pml": "ob1",
            "OMPI_MCA_mpi_yield_when_idle": "1" if crowded else "0",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "PRTE_ALLOW_RUN_AS_ROOT": "1",
            "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }
    elif name == "mpich":
        binding = () if crowded else ("-bind-to", "core")
        # Its shared memory spins without ever yielding: milliseconds for a byte. Its network path
        # does yield.
        own = {"MPIR_CVAR_NOLOCAL": "1"} if crowded else {}
    else:
        own = {
            "I_MPI_ROOT": str(root),
            "I_MPI_FABRICS": "shm",
            "I_MPI_PIN": "0" if crowded else "1",
            "I_MPI_THREAD_YIELD": "2" if crowded else "0",
            "FI_PROVIDER_PATH": str(root / "lib"),
        }
    if name == "oneccl":
        # The caller drives the operation itself: a worker thread would take the other rank's core.
        # With too few cores anyway, a worker that yields is what comes to an end.
        own |= {"CCL_WORKER_OFFLOAD": "0", "CCL_ROOT": str(root)}
        if crowded:
            own |= {"CCL_WORKER_OFFLOAD": "1", "CCL_YIELD": "sched_yield", "CCL_SPIN_COUNT": "1"}
    launcher = str(root / "bin" / ("mpiexec.hydra" if name != "openmpi" else "mpiexec"))
    return Peer(
        name, (launcher, *binding, "-n", "{ranks}", worker, "{folder}"), {**libraries, **own}
    )


def _hora_core(program: Path) -> Peer:
    return Peer("hora-core", (str(program), "{folder}", "{ranks}"))


def python_peer(name: str) -> Peer:
    worker = (sys.executable, str(HERE / "workers" / "torch_worker.py"), name, "{folder}")
    if name == "hora":
        launch = (sys.executable, "-m", "hora.launch", "-np", "{ranks}", "--no-prefix", "--")
        return Peer(name, (*launch, *worker), in_python=True)
    places = {"RANK": "{rank}", "WORLD_SIZE": "{ranks}", "GLOO_SOCKET_IFNAME": "lo"}
    return Peer(name, worker, places, per_rank=True, in_python=True)


def all_peers(installed: Installation, programs: Path, ranks: int) -> list[Peer]:
    """Every peer that is installed, hora first and the memory limit last.

    ``programs`` is the folder with hora_worker and memory_worker.
    """
    peers = [_hora_core(programs / "hora_worker"), python_peer("hora"), python_peer("gloo")]
    peers += [_native(name, installed, ranks) for name in NATIVE if installed.has(name)]
    peers.append(Peer("memory", (str(programs / "memory_worker"), "{folder}", "{ranks}")))
    return peers
