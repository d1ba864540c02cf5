"""The thread that regions run in."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """A thread with an event loop, that lives as long as somebody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0

    def enter(self) -> None:
        """Begin to use it."""
        with self._lock:
            if not self._users:
                self._loop = asyncio.SelectorEventLoop()  # sockets can be watched with it on every platform
                self._thread = threading.Thread(target=self._loop.run_forever, name="smartroute.testing", daemon=True)
                self._thread.start()
            self._users += 1

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What `coroutine` returns, having run in the thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def call(self, function: Callable[[], object]) -> None:
        """Have `function` called in the thread, soon."""
        self._loop.call_soon_threadsafe(function)

    def leave(self) -> None:
        """Use it no more. The last one to leave must have ended its tasks, and waits until the thread has ended."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
