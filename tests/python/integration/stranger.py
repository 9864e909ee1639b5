"""A stranger who can reach a job's ports: everything it may try without knowing the job's key.

``python stranger.py PLAN`` reads ``{"source": address, "targets": ["ip:port", …], "seconds": s,
"recorded": [hex, …]}`` from the file PLAN, attacks every target in turn until the seconds are over
and each attack was made at least once, and prints as JSON how often it did what.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import ssl
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HELLO_BYTES = 128  # what may be read of a stranger
_PATIENCE_S = 1.0
_SILENT_PER_TARGET = 150
_HTTP = (
    b"GET / HTTP/1.1\r\nHost: job\r\n\r\n",
    b"POST /api HTTP/1.1\r\nHost: job\r\nContent-Length: 1073741824\r\n\r\n" + b"a" * 4096,
    b"CONNECT job:443 HTTP/1.0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64),
)
_GIGABYTE = (
    struct.pack("<I", 1 << 30),
    struct.pack(">I", 1 << 30),
    struct.pack("<Q", 1 << 30),
    b"\x16\x03\x03\xff\xff",
    b"\xff" * 64,
)

Target = tuple[str, int]


class Stranger:
    """Owns the connections that it keeps open; every attack is a method over one target."""

    def __init__(self, source: str, recorded: list[bytes]) -> None:
        self._source = source
        self._recorded = recorded
        self._chance = random.Random(6)
        self._held: list[socket.socket] = []
        self.count: Counter[str] = Counter()

    def scans(self, target: Target) -> None:
        """Connects and leaves: with a goodbye, or with a reset."""
        for number in range(20):
            with self._connection(target) as to:
                if number % 2:
                    to.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.count["scans"] += 1

    def half_opens(self, target: Target) -> None:
        """SYN packets, some from addresses where nobody will answer."""
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for number in range(60):
                source = self._source if number % 2 else f"10.77.0.{200 + number % 50}"
                raw.sendto(_syn(source, 20000 + self._chance.randrange(20000), target), target)
        self.count["half-open"] += 1

    def random_bytes(self, target: Target) -> None:
        """Of many lengths."""
        for length in (1, 7, 8, 64, 127, 128, 129, 4096, 100_000):
            self._say(target, self._chance.randbytes(length))
        self.count["random"] += 1

    def http(self, target: Target) -> None:
        """What a browser or a scanner of the Web would say."""
        for request in _HTTP:
            self._say(target, request)
        self.count["http"] += 1

    def client_hellos(self, target: Target) -> None:
        """TLS as a browser begins it."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        session = context.wrap_bio(incoming, outgoing, server_hostname="job")
        with contextlib.suppress(ssl.SSLWantReadError):
            session.do_handshake()
        hello = outgoing.read()
        self._say(target, hello)
        for before in self._hellos():
            self._say(target, before + hello)
        self.count["client hello"] += 1

    def truncated(self, target: Target) -> None:
        """A real hello and what follows it, cut off."""
        for stream in self._recorded:
            for length in {1, 8, 12, 64, HELLO_BYTES - 1, HELLO_BYTES + 1, len(stream) // 2}:
                self._say(target, stream[:length], wait=False)
        self.count["truncated"] += 1

    def replays(self, target: Target) -> None:
        """All that a member once said, at once or in turn with the answers."""
        for stream in self._recorded:
            self._say(target, stream)
            with self._connection(target) as to, contextlib.suppress(OSError):
                to.sendall(stream[:HELLO_BYTES])
                to.recv(HELLO_BYTES)
                to.sendall(stream[HELLO_BYTES:])
                while to.recv(1 << 16):
                    pass
        self.count["replay"] += 1

    def gigabytes(self, target: Target) -> None:
        """Lengths of a gibibyte, with and without a real hello before them."""
        for length in _GIGABYTE:
            for before in (b"", *self._hellos()):
                self._say(target, before + length + bytes(1024), wait=False)
        self.count["gigabyte"] += 1

    def silences(self, target: Target) -> None:
        """Hundreds of connections that say nothing, or a byte now and then."""
        for _ in range(_SILENT_PER_TARGET):
            with contextlib.suppress(OSError):
                self._held.append(socket.create_connection(target, _PATIENCE_S))
        self.count["silence"] += 1

    def drip(self) -> None:
        """One more byte on each connection that is held; those that were closed are let go."""
        kept = []
        for to in self._held:
            try:
                to.setblocking(False)
                to.send(b"H")
                kept.append(to)
            except OSError:
                to.close()
        self.count["let go"] += len(self._held) - len(kept)
        self._held = kept

    def _hellos(self) -> list[bytes]:
        return [stream[:HELLO_BYTES] for stream in self._recorded[:2]]

    def _say(self, target: Target, words: bytes, wait: bool = True) -> None:
        with self._connection(target) as to, contextlib.suppress(OSError):
            to.sendall(words)
            if wait:
                to.settimeout(0.05)
                to.recv(1 << 16)

    @contextlib.contextmanager
    def _connection(self, target: Target) -> Iterator[socket.socket]:
        with contextlib.ExitStack() as stack:
            try:
                to = stack.enter_context(socket.create_connection(target, _PATIENCE_S))
            except OSError:
                self.count["not connected"] += 1
                to = stack.enter_context(socket.socket())
            to.settimeout(3 * _PATIENCE_S)
            with contextlib.suppress(OSError):
                yield to


def _syn(source: str, port: int, target: Target) -> bytes:
    """An IPv4 packet that would open a connection; the kernel fills in the header's checksum."""
    ends = socket.inet_aton(source) + socket.inet_aton(target[0])
    tcp = struct.pack("!HHIIBBHHH", port, target[1], 1, 0, 5 << 4, 2, 1024, 0, 0)
    pseudo = ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp)) + tcp
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    tcp = tcp[:16] + struct.pack("!H", ~total & 0xFFFF) + tcp[18:]
    return struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0) + ends + tcp


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    stranger = Stranger(plan["source"], [bytes.fromhex(one) for one in plan["recorded"]])
    targets = [(host, int(port)) for host, port in (one.split(":") for one in plan["targets"])]
    end = time.monotonic() + plan["seconds"]
    rounds = 0
    while not rounds or time.monotonic() < end:
        rounds += 1
        for target in targets:
            for attack in (
                stranger.silences,
                stranger.scans,
                stranger.half_opens,
                stranger.random_bytes,
                stranger.http,
                stranger.client_hellos,
                stranger.truncated,
                stranger.replays,
                stranger.gigabytes,
            ):
                attack(target)
                stranger.drip()
    print(json.dumps(stranger.count))
    sys.stdout.flush()
    os._exit(0)  # the kernel closes what is still open


if __name__ == "__main__":
    main()
