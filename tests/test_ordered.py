import threading
import time

import pytest
import torch

from pipeline.ordered import ordered_map


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_order_is_kept_whatever_takes_long(threads):
    def work(item):
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item * item

    assert list(ordered_map(work, range(20), threads)) == [n * n for n in range(20)]


def test_one_thread_is_the_caller_s():
    names = set(ordered_map(lambda _: threading.current_thread().name, range(3), 1))
    assert names == {threading.current_thread().name}


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_more_at_once_and_little_ahead(threads):
    taken, lock = [], threading.Lock()
    busy, most = 0, 0

    def items():
        for item in range(30):
            taken.append(item)
            yield item

    def work(item):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.002)
        with lock:
            busy -= 1
        return item

    for received in ordered_map(work, items(), threads):
        assert len(taken) - received <= threads + 1
    assert most == threads


def test_each_call_computes_on_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert set(ordered_map(lambda _: torch.get_num_threads(), range(4), 2)) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_comes_out_and_the_rest_is_dropped(threads):
    started = []

    def work(item):
        started.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    received = []
    with pytest.raises(ValueError, match="three"):
        for item in ordered_map(work, range(100), threads):
            received.append(item)
    assert received == [0, 1, 2]
    assert len(started) < 10


def test_nothing_in_nothing_out():
    assert list(ordered_map(str, [], 2)) == []
