"""What travels on a host's network: a recorder, and the streams of TCP that it saw.

``python packets.py FILE BYTES_PER_STREAM`` records from eth0 of the network namespace it runs in
until it is told to end (SIGTERM); it says "recording" when it has begun. FILE then has one line of
JSON, ``[from, to, hex]``, for each stream and direction.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import sys
from pathlib import Path

_ALL_PROTOCOLS = 3
_SO_RCVBUFFORCE = 33
_MOST_BYTES = 1 << 18  # of a packet; offloading makes large ones

Endpoints = tuple[str, str]  # "10.77.0.1:4711" of sender and receiver


class Stream:
    """One direction of a connection, from its first byte; bytes may come out of order."""

    def __init__(self, sequence: int) -> None:
        self.first = sequence
        self.pieces: dict[int, bytes] = {}
        self.size = 0

    def add(self, sequence: int, payload: bytes) -> None:
        offset = (sequence - self.first) % (1 << 32)
        if len(payload) > len(self.pieces.get(offset, b"")):
            self.pieces[offset] = payload
            self.size += len(payload)

    def content(self) -> bytes:
        """Up to the first gap."""
        out = bytearray()
        for offset in sorted(self.pieces):
            if offset > len(out):
                break
            out[offset:] = self.pieces[offset]
        return bytes(out)


class Recorder:
    """Puts packets into streams; of each no more than ``most`` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.streams: dict[Endpoints, Stream] = {}

    def add(self, frame: bytes) -> None:
        if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP:
            return
        ip, total = 14, struct.unpack_from("!H", frame, 16)[0]
        tcp = ip + (frame[ip] & 15) * 4
        ports = struct.unpack_from("!HH", frame, tcp)
        sequence = struct.unpack_from("!I", frame, tcp + 4)[0]
        payload = frame[tcp + (frame[tcp + 12] >> 4) * 4 : ip + total if total else len(frame)]
        source, target = (
            f"{socket.inet_ntoa(frame[at : at + 4])}:{port}"
            for at, port in zip((ip + 12, ip + 16), ports, strict=True)
        )
        if frame[tcp + 13] & 2:  # SYN counts as a byte
            self.streams[source, target] = Stream(sequence + 1)
        stream = self.streams.get((source, target))
        if stream and payload and stream.size < self._most:
            stream.add(sequence, payload)

    def write(self, path: Path) -> None:
        with path.open("w") as out:
            for (source, target), stream in self.streams.items():
                out.write(json.dumps([source, target, stream.content().hex()]) + "\n")


def read(path: Path) -> dict[Endpoints, bytes]:
    """What a recorder wrote."""
    lines = map(json.loads, path.read_text().splitlines())
    return {(source, target): bytes.fromhex(content) for source, target, content in lines}


def main() -> None:
    recorder = Recorder(int(sys.argv[2]))
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 128 << 20)
    packets.bind(("eth0", 0))
    packets.settimeout(0.1)
    ends: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ends.append(number))
    print("recording", flush=True)
    while not ends:
        with contextlib.suppress(TimeoutError):
            recorder.add(packets.recv(_MOST_BYTES))
    recorder.write(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
