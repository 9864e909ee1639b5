"""Loaders that a script defines by one method, and reading ahead in a thread.

class Batches(hora.data.AsyncDataLoaderMixin, hora.data.BaseDataLoader):
def __len__(self): ...
def _iterate(self): ...  # yields batches

loader = Batches(async_loader_queue_size=8)
for batch in loader: ...
loader.close_async_loader()
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from hora.errors import UsageError

__all__ = ["AsyncDataLoaderMixin", "BaseDataLoader"]

_logger = logging.getLogger("hora.data")
_END = object()


class BaseDataLoader:
    """A loader made of ``__len__`` and ``_iterate``, which a subclass defines."""

    def __len__(self) -> int:
        """How many batches one pass has."""
        raise NotImplementedError(f"{type(self).__name__} does not define __len__")

    def _iterate(self) -> Iterator[Any]:
        """Yields the batches of one pass."""
        raise NotImplementedError(f"{type(self).__name__} does not define _iterate")

    def _process_batch(self, batch: Any) -> Any:
        """Changes a batch just before it is handed out, on the consumer's thread."""
        return batch

    def __iter__(self) -> Iterator[Any]:
        for batch in self._iterate():
            yield self._process_batch(batch)


class AsyncDataLoaderMixin:
    """Runs ``_iterate`` of the loader that it is mixed into in a thread, ahead of the consumer.

    Put it before the loader among the base classes. Each pass has a thread of its own, which ends
    with the pass, when the consumer leaves it early, and at ``close_async_loader``. An exception in
    ``_iterate`` is raised to the consumer, after the batches that came before it. One pass at a
    time: a new one ends the one before.

    Args:
        async_loader_queue_size: how many batches may wait; 0 reads on the consumer's thread.
        debug_data_loader: log every batch that is queued (logger ``hora.data``, level INFO).
        *args: of the loader, as are the other keyword arguments.
    """

    def __init__(
        self,
        async_loader_queue_size: int = 64,
        debug_data_loader: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if not isinstance(async_loader_queue_size, int) or async_loader_queue_size < 0:
            raise UsageError(
                f"async_loader_queue_size={async_loader_queue_size!r} is not a whole number, 0 or "
                "more"
            )
        self.async_loader_queue_size = async_loader_queue_size
        self.debug_data_loader = debug_data_loader
        self._pass: _Pass | None = None
        super().__init__(*args, **kwargs)

    def __iter__(self) -> Iterator[Any]:
        if self.async_loader_queue_size == 0:
            yield from super().__iter__()  # type: ignore[misc]
            return
        self.close_async_loader()
        ahead = _Pass(
            self._iterate(),  # type: ignore[attr-defined]
            self.async_loader_queue_size,
            self.debug_data_loader,
        )
        self._pass = ahead
        try:
            while (batch := ahead.take()) is not _END:
                yield self._process_batch(batch)  # type: ignore[attr-defined]
        finally:
            ahead.stop()

    def close_async_loader(self, timeout: float = 10.0) -> None:
        """Ends the thread and drops the batches that wait; the loader may be iterated again.

        Returns at the latest after ``timeout`` seconds: a thread that is inside ``_iterate`` then
        ends by itself as soon as that comes back, and a warning says so.
        """
        ahead, self._pass = self._pass, None
        if ahead is not None:
            ahead.stop()
            if not ahead.join(timeout):
                _logger.warning(
                    "the loader's thread is still waiting for a batch after %g s; it ends when "
                    "_iterate returns",
                    timeout,
                )


class _Pass:
    """One pass over a loader: the thread that reads it, and the batches that wait.

    Any thread may call; ``take`` blocks until there is a batch, the end, or ``stop``.
    """

    def __init__(self, batches: Iterable[Any], room: int, verbose: bool) -> None:
        self._batches = batches
        self._room = room
        self._verbose = verbose
        self._changed = threading.Condition()
        self._waiting: deque[Any] = deque()
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="hora-loader", daemon=True)
        self._thread.start()

    def take(self) -> Any:
        with self._changed:
            while not (self._waiting or self._ended or self._stopped):
                self._changed.wait()
            if self._waiting:
                self._changed.notify_all()
                return self._waiting.popleft()
            error, self._error = self._error, None
        if error is not None:
            raise error
        return _END

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for number, batch in enumerate(self._batches):
                if not self._offer(batch):
                    break
                if self._verbose:
                    _logger.info("batch %d is queued", number)
        except BaseException as caught:  # it belongs to the consumer, whatever it is
            error = caught
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()

    def _offer(self, batch: Any) -> bool:
        """Queues a batch once there is room; False when the pass has been stopped."""
        with self._changed:
            while len(self._waiting) >= self._room and not self._stopped:
                self._changed.wait()
            if not self._stopped:
                self._waiting.append(batch)
                self._changed.notify_all()
            return not self._stopped
