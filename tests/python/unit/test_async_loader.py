"""Loaders that read ahead in a thread: nothing is lost, nothing hangs."""

from __future__ import annotations

import gc
import logging
import threading

import pytest
from hora.errors import UsageError


@pytest.fixture
def Ahead(hvd):
    """A loader of numbers that reads ahead; of the modules that this test has imported."""
    from hora.data import AsyncDataLoaderMixin, BaseDataLoader

    class Numbers(BaseDataLoader):
        def __init__(self, count=5):
            self.count = count
            self.read = []

        def __len__(self):
            return self.count

        def _iterate(self):
            for number in range(self.count):
                self.read.append(number)
                yield number

    class Ahead(AsyncDataLoaderMixin, Numbers):
        def _process_batch(self, batch):
            return batch, threading.current_thread() is threading.main_thread()

    return Ahead


def loader_threads():
    return [t for t in threading.enumerate() if t.name == "hora-loader" and t.is_alive()]


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    gc.collect()
    for thread in loader_threads():
        thread.join(10)
    assert loader_threads() == []


@pytest.mark.parametrize("size", [0, 1, 64])
def test_every_pass_has_every_batch(Ahead, size):
    loader = Ahead(size, count=7)
    assert len(loader) == 7
    for _ in range(3):
        assert list(loader) == [(number, True) for number in range(7)]
    loader.close_async_loader()
    loader.close_async_loader()
    assert len(list(loader)) == 7


def test_a_loader_without_a_thread(hvd):
    from hora.data import BaseDataLoader

    class Letters(BaseDataLoader):
        def _iterate(self):
            yield from "abc"

    assert list(iter(Letters())) == ["a", "b", "c"]
    with pytest.raises(NotImplementedError, match="BaseDataLoader does not define _iterate"):
        next(iter(BaseDataLoader()))
    with pytest.raises(NotImplementedError, match="Letters does not define __len__"):
        len(Letters())


def test_it_reads_ahead_as_far_as_there_is_room(Ahead):
    third = threading.Event()

    class Watched(Ahead):
        def _iterate(self):
            for number in super()._iterate():
                if number == 2:
                    third.set()
                yield number

    loader = Watched(2, count=100)
    passing = iter(loader)
    assert next(passing)[0] == 0
    assert third.wait(10)  # the consumer has taken one only
    loader.close_async_loader()
    assert len(loader.read) <= 5
    assert list(passing) == []  # a closed pass is over


@pytest.mark.parametrize("size", [0, 1, 8])
def test_an_error_reaches_the_consumer_in_its_place(Ahead, size):
    class Broken(Ahead):
        def _iterate(self):
            yield from super()._iterate()
            raise OSError("disk gone")

    passing = iter(Broken(size, count=3))
    assert [next(passing)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="disk gone"):
        next(passing)


def test_leaving_early_ends_the_thread(Ahead):
    loader = Ahead(1, count=1000)
    for batch, _ in loader:
        if batch == 3:
            break
    assert [batch for batch, _ in loader] == list(range(1000))
    passing = iter(loader)
    next(passing)
    del passing, loader


def test_a_new_pass_ends_the_one_before(Ahead):
    loader = Ahead(2, count=50)
    first = iter(loader)
    next(first)
    assert len(list(loader)) == 50
    assert list(first) == []


def test_closing_does_not_wait_for_a_stuck_reader(Ahead, caplog):
    release, stuck = threading.Event(), threading.Event()

    class Stuck(Ahead):
        def _iterate(self):
            yield 0
            stuck.set()
            release.wait(30)

    loader = Stuck(4)
    passing = iter(loader)
    next(passing)
    assert stuck.wait(10)
    with caplog.at_level(logging.WARNING, "hora.data"):
        loader.close_async_loader(timeout=0.01)
    assert "still waiting for a batch" in caplog.text
    release.set()


def test_debugging(Ahead, caplog):
    with caplog.at_level(logging.INFO, "hora.data"):
        list(Ahead(async_loader_queue_size=2, debug_data_loader=True, count=2))
    assert "batch 1 is queued" in caplog.text


@pytest.mark.parametrize("size", [-1, 1.5, None])
def test_sizes(Ahead, size):
    with pytest.raises(UsageError, match="async_loader_queue_size"):
        Ahead(size)
