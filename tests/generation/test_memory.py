import pytest
import torch

from pipeline.errors import ResourceUnavailable
from pipeline.generation.backend import Sampling
from pipeline.generation.memory import in_fitting_batches


class Device:
    """Has room for so many jobs at once; remembers what it was asked for."""

    def __init__(self, room):
        self.room, self.asked = room, []

    def __call__(self, batch):
        self.asked.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [job * 10 for job in batch]


@pytest.mark.parametrize("room", [1, 2, 3, 5, 8, 100])
@pytest.mark.parametrize("count", [0, 1, 7, 16])
def test_every_job_is_done_once_and_in_order(room, count):
    device = Device(room)
    batches = list(in_fitting_batches(list(range(count)), 8, device))
    assert [job for batch, _ in batches for job in batch] == list(range(count))
    assert [value for _, values in batches for value in values] == [10 * j for j in range(count)]
    assert all(len(batch) <= room for batch, _ in batches)


def test_later_batches_are_as_small():
    device = Device(3)
    list(in_fitting_batches(list(range(8)), 8, device))
    assert device.asked == [8, 4, 2, 2, 2, 2]


def test_one_job_that_has_no_room():
    with pytest.raises(ResourceUnavailable, match="out of memory on the device") as caught:
        list(in_fitting_batches([1, 2, 3], 2, Device(0)))
    assert "\n" not in str(caught.value)


def test_what_was_done_stays_done():
    def run(batch):
        if 5 in batch:
            raise torch.OutOfMemoryError
        return batch

    done = []
    with pytest.raises(ResourceUnavailable):
        for batch, _ in in_fitting_batches(list(range(8)), 4, run):
            done += batch
    assert done == [0, 1, 2, 3, 4]


def test_another_error_is_not_for_us():
    def run(batch):
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_fitting_batches([1, 2], 2, run))


def test_the_failed_batch_s_tensors_are_gone_before_the_next_try():
    import gc
    import weakref

    held = []

    class Big:
        pass

    def run(batch):
        assert all(ref() is None for ref in held)
        if len(batch) > 1:
            big = Big()
            held.append(weakref.ref(big))
            raise torch.OutOfMemoryError
        return batch

    gc.disable()
    try:
        list(in_fitting_batches([1, 2, 3, 4], 4, run))
    finally:
        gc.enable()
    assert len(held) == 2


def test_pictures_are_the_same_in_halves(tiny):
    """With the pictures of a real pipeline, whose first batch has no room."""
    model, how = tiny("sd2"), Sampling(scheduler="ddpm", steps=3)
    jobs = [("a cat", 1), ("two dogs", 2), ("", 3), ("a hat", 4)]

    def draw(batch):
        return model.draw([caption for caption, _ in batch], [seed for _, seed in batch], how)

    def draw_with_little_room(batch):
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        return draw(batch)

    whole = draw(jobs).astype(int)
    halves = [pictures for _, pictures in in_fitting_batches(jobs, 4, draw_with_little_room)]
    assert [len(half) for half in halves] == [2, 2]
    assert abs(torch.tensor(whole) - torch.cat([torch.tensor(h) for h in halves])).max() <= 1
