"""One part in this process: its seeds, its digests, and what its errors mean."""

import dataclasses
import errno
import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from toy_stages import COUNT, WHERE, context_of, write_texts

from pipeline.errors import DiskFull, InputError, OutputExists, ResourceUnavailable
from pipeline.io.atomic import write_bytes
from pipeline.runner.part import Outcome, Part
from pipeline.runner.work import failure, is_fatal, run_part


def draw_slowly(part, context):
    numbers = []
    for _ in range(20):
        numbers.append((np.random.rand(), torch.rand(1).item(), torch.get_num_threads()))
        torch.linalg.norm(torch.ones(300, 300) @ torch.ones(300, 300))
    write_bytes(context.path(part.name), repr(numbers).encode())
    return Outcome((part.name,), 1, 1)


def test_parts_in_threads_of_one_process_draw_as_if_alone(tmp_path):
    stage = dataclasses.replace(WHERE, run=draw_slowly)
    context = context_of(tmp_path)
    parts = [Part(f"p{i}") for i in range(6)]
    alone = [run_part(stage, part, context).outputs for part in parts]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda part: run_part(stage, part, context).outputs, parts))
    assert together == alone
    assert len({str(outputs.values()) for outputs in alone}) == len(parts)


def test_the_digests_are_those_of_the_files(tmp_path):
    run = write_texts(tmp_path, {"a": "one two\n"})
    run.mkdir()
    context = context_of(run)
    done = run_part(COUNT, COUNT.plan(context)[0], context)
    expected = hashlib.sha256((run / "counts" / "a.json").read_bytes()).hexdigest()
    assert done.outputs["counts/a.json"] == expected
    files = [run / "words" / "a" / name for name in ("drawn.txt", "first.txt")]
    listed = [f'["{p.name}","{hashlib.sha256(p.read_bytes()).hexdigest()}"]' for p in files]
    folder = hashlib.sha256(f"[{','.join(listed)}]".encode()).hexdigest()
    assert done.outputs["words/a"] == folder


def test_an_output_that_was_not_written_is_an_error(tmp_path):
    stage = dataclasses.replace(COUNT, run=lambda part, context: Outcome(("nothing",), 1, 1))
    with pytest.raises(FileNotFoundError):
        run_part(stage, Part("x"), context_of(tmp_path))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_disk_full_whatever_wraps_it(tmp_path, number):
    def wrap(part, context):
        try:
            raise OSError(number, "told by the system")
        except OSError as error:
            raise RuntimeError("told by a library") from error

    with pytest.raises(DiskFull, match="free some and run again"):
        run_part(dataclasses.replace(COUNT, run=wrap), Part("x"), context_of(tmp_path))


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        (DiskFull("x"), True),
        (OutputExists("x"), True),
        (InputError("x"), False),
        (OSError(), False),
    ],
)
def test_only_what_another_attempt_cannot_mend_for_any_part_is_fatal(error, fatal):
    assert is_fatal(error) is fatal


def test_a_failure_is_one_line_for_people_and_a_log():
    try:
        raise ValueError("first\nsecond " + "x" * 900)
    except ValueError as error:
        told = failure(error, 3)
    assert told.message.startswith("ValueError: first second xxx")
    assert len(told.message) == 500
    assert "test_work.py" in told.log
    assert failure(KeyError(), 1).message == "KeyError:"
    assert failure(ResourceUnavailable(""), 1).message == "ResourceUnavailable"
