"""The job's store and the processes around it."""

from __future__ import annotations

import os
import socket

import pytest
from hora.launch.store import StoreHost, split_endpoint

if not hasattr(pytest.importorskip("hora._core"), "StoreServer"):
    pytest.skip("the core was built without a store", allow_module_level=True)


def test_a_forked_child_does_not_keep_the_store_open():
    store = StoreHost("127.0.0.1:0", "a job", "07" * 32)
    reader, writer = os.pipe()
    told, tells = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.write(tells, b"1")  # it has its own descriptors
        os.read(reader, 1)  # until the parent has looked
        os._exit(0)
    os.close(reader)
    os.close(tells)
    try:
        assert os.read(told, 1) == b"1"
        with socket.create_connection(split_endpoint(store.address), timeout=5):
            pass
        address = store.address
        store.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(split_endpoint(address), timeout=5)
    finally:
        os.close(told)
        os.close(writer)
        _, status = os.waitpid(child, 0)
    assert status == 0
