"""PyTorch's settings of the moment, which a video must not depend on.

Threads of their own inherit neither autocast nor the default device, but not all is computed in such threads: on a
GPU, or where PyTorch may use one thread, the caller's does everything.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def usual_settings(device: torch.device) -> Iterator[None]:
    """Without autocast, and with new tensors on the CPU unless their place is named, whatever holds outside."""
    with ExitStack() as settings:
        for kind in {"cpu", device.type}:
            settings.enter_context(torch.autocast(kind, enabled=False))
        # Only where it is needed: it makes every operation slower.
        if torch.get_default_device().type != "cpu":
            settings.enter_context(torch.device("cpu"))
        yield


def in_usual_settings(method: Callable) -> Callable:
    """A method of a pipeline that computes in the usual settings."""

    @functools.wraps(method)
    def computed(self, *args, **kwargs):
        with usual_settings(self.device):
            return method(self, *args, **kwargs)

    return computed
