"""Threads in which PyTorch computes by itself.

A video takes hundreds of thousands of small operations. Shared among several of PyTorch's threads, each operation ends
with all of them waiting for the last, and they spin while they wait: that doubles the processor's time on a quiet
machine, and where another program wants the same cores, it multiplies the video's. Here threads share work in large
pieces instead, a batch of frames each, and every operation belongs to one.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


@contextmanager
def solo_threads(device: torch.device, most: int) -> Iterator[ThreadPoolExecutor | None]:
    """As many threads as PyTorch may use on this device, at most `most`; None where it may use one, the caller's."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield None
        return
    count = min(threads, most)
    started = threading.Barrier(count)
    pool = ThreadPoolExecutor(count, "avatarsync", _compute_alone_here)
    try:
        for future in [pool.submit(started.wait) for _ in range(count)]:
            future.result()
        # Threads that others start later are not to inherit that.
        torch.set_num_threads(threads)
        yield pool
    finally:
        started.abort()  # Ctrl-C may come before all have been asked to wait: nobody else lets the others go
        pool.shutdown(wait=True, cancel_futures=True)


def _compute_alone_here() -> None:
    torch.set_num_threads(1)
    # PyTorch looks up the number that holds for all threads at a thread's first operation: now, while it is one.
    torch.get_num_threads()


def compute_alone(device: torch.device, function: Callable[..., T], *args, **kwargs) -> T:
    """What the function returns, computed in one thread."""
    with solo_threads(device, 1) as pool:
        return compute_in(pool, function, *args, **kwargs)


def compute_in(pool: ThreadPoolExecutor | None, function: Callable[..., T], *args, **kwargs) -> T:
    """What the function returns, computed in a thread of the pool, or here without one."""
    return function(*args, **kwargs) if pool is None else pool.submit(function, *args, **kwargs).result()


def ahead(items: Iterator[T], pool: ThreadPoolExecutor | None) -> Iterator[T]:
    """The items, none of them None: the first is computed in the pool from now on, each later one while the one before
    is made use of."""
    if pool is None:
        return items
    first = pool.submit(next, items, None)

    def computed() -> Iterator[T]:
        upcoming = first
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item

    return computed()
