"""Where the ranks of several hosts meet: the store's server, and the addresses it may have."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hora.errors import HoraError, UsageError

if TYPE_CHECKING:
    from hora.launch.bootstrap_pipe import JobIdentity

INTERFACES = "HORA_NETWORK_INTERFACES"
LOOPBACK = "127.0.0.1"
# An address that nobody has (RFC 5737): the way there is that of the default route.
FAR_AWAY = "198.51.100.1"


class StoreHost:
    """Owns a listening store (its thread is native). Raises HoraError when it cannot listen."""

    def __init__(self, address: str, job_id: str, key: str) -> None:
        server = _native("StoreServer")
        try:
            self._server = server(address, job_id, bytes.fromhex(key))
        except (RuntimeError, OSError) as error:
            raise HoraError(f"the job's store cannot listen on {address}: {error}") from None

    @property
    def address(self) -> str:
        """Where ranks reach it: "ip:port"."""
        return str(self._server.address)

    def close(self) -> None:
        """Whoever waits in the store is told that it is gone."""
        self._server.close()


def needs_store(environ: Mapping[str, str]) -> bool:
    """Whether the ranks of one host, too, exchange data over a network."""
    return environ.get("HORA_BACKEND", "").startswith("flat-")


def host_store(
    address: str, port: int, job_id: str, key: str, settings: Mapping[str, str]
) -> StoreHost:
    """Starts a store on a name or number of this host; port 0: any. Raises HoraError.

    The core reads this process's environment, which therefore gets those of the ranks' ``settings``
    that are hora's: a store must be protected in the way that the ranks expect.
    """
    os.environ.update({name: value for name, value in settings.items() if name[:5] == "HORA_"})
    return StoreHost(endpoint(resolve(address), port), job_id, key)


def tell_ranks(identity: JobIdentity, settings: Mapping[str, str], rank: int, problem: str) -> None:
    """Says to all ranks that wait to meet why ``rank`` will not come; nothing once all have.

    Blocks for a second or two; tells nobody where nobody listens. The core reads this process's
    environment, as in ``host_store``.
    """
    os.environ.update({name: value for name, value in settings.items() if name[:5] == "HORA_"})
    key = bytes.fromhex(identity.key)
    tell = _native("tell_peers")
    tell(identity.store, identity.rendezvous, identity.job_id, key, rank, problem)


def choose_address(interfaces: Sequence[str], towards: str) -> str:
    """Returns the numeric address of this host on the first of ``interfaces`` that is up.

    ``towards`` is a numeric address: without interfaces, the kernel's choice for reaching it.
    Raises HoraError that names what was wanted and what there is.
    """
    choose = _native("choose_address")
    try:
        return str(choose(list(interfaces), endpoint(towards, 0))).rsplit(":", 1)[0].strip("[]")
    except RuntimeError as error:
        raise HoraError(str(error)) from None


def listen_on(address: str, count: int) -> socket.socket:
    """A listener on any port of ``address`` that ``count`` hosts may try; nobody accepts them."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=count + 16)


def endpoint(address: str, port: int) -> str:
    """Returns "ip:port", or "[ip]:port" for IPv6."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def split_endpoint(text: str) -> tuple[str, int]:
    """The opposite of ``endpoint``."""
    address, _, port = text.rpartition(":")
    return address.strip("[]"), int(port)


def resolve(host: str) -> str:
    """Returns the first numeric address of a host; raises HoraError that names it.

    Blocks for as long as the resolver takes.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise HoraError(f"{host}: no address is known for this name ({error.strerror})") from None
    address = found[0][4]
    # Python leaves out what a link-local address (fe80::…) means nothing without.
    zone = int(address[3]) if len(address) == 4 else 0
    return f"{address[0]}%{socket.if_indextoname(zone)}" if zone else str(address[0])


def interfaces_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The interfaces and networks that a job may use; none: the kernel's choice."""
    return tuple(filter(None, (word.strip() for word in environ.get(INTERFACES, "").split(","))))


def checked_interfaces(word: str) -> str:
    """A reader for the option: names or networks with commas between them. Raises ValueError."""
    words = [part.strip() for part in word.split(",")]
    allowed = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/@%")
    if not all(words) or any(part[0] == "-" or set(part) - allowed for part in words):
        raise ValueError(f"{word!r} is not a list of interfaces or networks, as in eth0,10.0.0.0/8")
    return ",".join(words)


def _native(name: str) -> Any:
    try:
        return getattr(importlib.import_module("hora._core"), name)
    except (ImportError, AttributeError):
        raise UsageError(
            f"this installation of hora cannot run over several hosts: its core has no {name}; "
            "install it again (pip install --force-reinstall hora)"
        ) from None
