"""The line between launcher and agent: messages, silence, and what ends it."""

from __future__ import annotations

import os
import selectors
import sys
import time

import pytest
from hora.launch.agent_link import AgentLink
from hora.launch.messages import (
    MessageReader,
    ProtocolError,
    alive_every,
    encode,
    silence_limit,
)
from launched import DEADLINE_S, wait_until_gone


def test_messages_in_pieces():
    reader = MessageReader("hello")
    stream = encode("hello", hora="1") + encode("out", data="a\nb") + encode("alive")
    got = [message for byte in stream for message in reader.feed(bytes([byte]))]
    assert [message["kind"] for message in got] == ["hello", "out", "alive"]
    assert got[1]["data"] == "a\nb"


def test_noise_comes_only_before_the_first_message():
    reader = MessageReader("hello")
    assert reader.feed(b"Welcome\n[1, 2]\n{}\nnull\n\xff\n" + encode("alive")) == []
    assert len(reader.feed(encode("hello"))) == 1
    with pytest.raises(ProtocolError, match="'Welcome' instead of a message"):
        reader.feed(b"Welcome\n")


@pytest.mark.parametrize("line", [b"{}", b"[]", b'{"kind": 3}', b"[" * 9999, b"\xff", b""])
def test_what_is_no_message(line):
    reader = MessageReader("hello")
    reader.feed(encode("hello"))
    with pytest.raises(ProtocolError):
        reader.feed(line + b"\n")


def test_a_line_without_end_is_refused():
    with pytest.raises(ProtocolError, match="a line without end"):
        MessageReader("hello").feed(b"x" * (5 << 20))


@pytest.fixture
def connect():
    selector = selectors.DefaultSelector()
    links = []

    def connect(
        code: str, silence_limit_s: float = 30
    ) -> tuple[AgentLink, list[dict], selectors.BaseSelector]:
        heard: list[dict] = []
        link = AgentLink([sys.executable, "-c", code], selector, heard.append, silence_limit_s)
        links.append(link)
        return link, heard, selector

    yield connect
    for link in links:
        if link.is_running:
            link.kill()
            link.reaped(os.waitpid(link.pid, 0)[1])
    selector.close()


def turn_until(selector, condition) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        for key, _ in selector.select(0.1):
            key.data()


@pytest.mark.parametrize(
    ("heartbeat", "limit_s"), [(None, 30), ("1", 10), ("0.2", 2), ("soon", 30), ("-1", 30)]
)
def test_the_silence_that_is_borne_follows_the_heartbeat(heartbeat, limit_s):
    environ = {} if heartbeat is None else {"HORA_HEARTBEAT_SECONDS": heartbeat}
    assert silence_limit(environ) == limit_s
    assert 0 < alive_every(limit_s) <= limit_s / 6


def test_signs_of_life_go_out_and_silence_ends_it(connect):
    code = """
import sys
print('{"kind": "hello"}', flush=True)
line = sys.stdin.readline()
print('{"kind": "got", "line": ' + line.strip() + '}', flush=True)
sys.stdin.read()
"""
    link, heard, selector = connect(code, silence_limit_s=0.5)

    def is_silent() -> bool:
        link.tick()
        return bool(link.problem)

    turn_until(selector, is_silent)
    assert [message["kind"] for message in heard] == ["hello", "got"]
    assert heard[1]["line"] == {"kind": "alive"}
    assert link.problem == "no sign of life for 0.5 s"
    wait_until_gone([link.pid])


def test_what_was_said_last_is_heard_and_explained(connect):
    code = """
import sys
print('{"kind": "hello"}\\n{"kind": "end"}', flush=True)
sys.exit(print("first\\nModuleNotFoundError: No module named 'hora'\\n", file=sys.stderr) or 3)
"""
    link, heard, _ = connect(code)
    link.reaped(os.waitpid(link.pid, 0)[1])
    assert [message["kind"] for message in heard] == ["hello", "end"]
    assert link.problem.startswith(
        "the agent exit 3: ModuleNotFoundError: No module named 'hora' ("
    )
    link.send("alive")  # to nobody
    link.kill()


def test_reading_can_be_held_back(connect):
    link, heard, selector = connect('print(\'{"kind": "hello"}\', flush=True); input()')
    turn_until(selector, lambda: heard)
    link.listen(False)
    link.listen(False)
    link.tick()
    link.listen(True)
    assert not link.problem
