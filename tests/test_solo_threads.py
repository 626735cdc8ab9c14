"""Threads in which PyTorch computes by itself."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from avatarsync.pipelines.solo_threads import ahead, compute_alone, compute_in, solo_threads

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def where():
    return threading.get_ident(), torch.get_num_threads()


def test_work_has_a_thread_of_its_own(two_threads):
    thread, count = compute_alone(CPU, where)
    assert thread != threading.get_ident() and count == 1
    assert torch.get_num_threads() == 2, "the caller keeps his threads"
    inherited = []
    other = threading.Thread(target=lambda: inherited.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert inherited == [2], "and so does whoever starts one later"


def test_one_thread_stays_the_callers(two_threads):
    torch.set_num_threads(1)
    assert compute_alone(CPU, where) == (threading.get_ident(), 1)
    with solo_threads(CPU, 4) as pool:
        assert pool is None


def meet(pool, count):
    """Where `count` tasks run that wait for each other."""
    meeting = threading.Barrier(count)
    return {future.result() for future in [pool.submit(lambda: (meeting.wait(), where())[1]) for _ in range(count)]}


def test_as_many_as_pytorch_may_use_and_no_more_than_asked_for(two_threads):
    for most, count in ((1, 1), (2, 2), (8, 2)):
        with solo_threads(CPU, most) as pool:
            found = meet(pool, count)
        assert len(found) == count and {threads for _, threads in found} == {1}


def test_an_interrupt_while_threads_start_leaves_none_waiting(two_threads, monkeypatch):
    """Ctrl-C between the first thread's start and the second's: the first must not wait for ever."""
    submit, started, ended = ThreadPoolExecutor.submit, [], []

    def interrupted(pool, *task):
        if started:
            raise KeyboardInterrupt
        started.append(submit(pool, *task))
        return started[0]

    def enter():
        try:
            with solo_threads(CPU, 2):
                raise AssertionError("it was interrupted")
        except KeyboardInterrupt:
            ended.append(True)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    thread.join(30)
    assert ended and isinstance(started[0].exception(), threading.BrokenBarrierError)


def test_arguments_and_errors_get_through(two_threads):
    assert compute_alone(CPU, int, "ff", base=16) == 255
    with pytest.raises(ValueError, match="invalid literal"):
        compute_alone(CPU, int, "x")
    assert compute_in(None, max, 1, 2) == 2


def test_items_are_computed_ahead_and_in_order(two_threads):
    begun = [threading.Event() for _ in range(4)]

    def items():
        for number in range(3):
            begun[number].set()
            yield number
        begun[3].set()

    with solo_threads(CPU, 1) as pool:
        numbers = ahead(items(), pool)
        assert begun[0].wait(10), "the first before anybody asks"
        for number in range(3):
            assert next(numbers) == number
            assert begun[number + 1].wait(10), "the next one meanwhile"
        assert list(numbers) == []
    assert list(ahead(items(), None)) == [0, 1, 2]


def test_an_error_among_the_items_is_raised_in_its_place(two_threads):
    def items():
        yield 1
        raise RuntimeError("broken")

    with solo_threads(CPU, 1) as pool:
        numbers = ahead(items(), pool)
        assert next(numbers) == 1
        with pytest.raises(RuntimeError, match="broken"):
            next(numbers)
