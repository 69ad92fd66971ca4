"""A full disk stops a run at once and leaves nothing half written."""

import contextlib
import dataclasses
import os
import subprocess

import pytest
from toy_stages import COUNT, SUM, TEXTS, execute, tree, tries_of, write_texts

from pipeline.errors import DiskFull
from pipeline.io.atomic import atomic_path
from pipeline.runner.part import Outcome
from pipeline.runner.progress import SilentProgress


class Ended(SilentProgress):
    def __init__(self):
        super().__init__()
        self.finished = []

    def finish(self, stage, rows, rejected, seconds):
        self.finished.append((stage, rows))


def test_no_part_starts_with_too_little_room(tmp_path):
    run = write_texts(tmp_path, TEXTS)
    progress = Ended()
    with pytest.raises(DiskFull, match=r"GB free, 1e\+09 GB wanted") as full:
        execute(run, progress=progress, runner__min_free_gb=1e9)
    assert full.value.exit_code == 3
    assert tree(run) == {}
    assert progress.finished == [("count", (0, 0))]  # the stage's bar is taken down


def fill(part, context):
    with atomic_path(context.path(f"big/{part.name}")) as file, file.open("wb") as handle:
        for _ in range(64):
            handle.write(bytes(1 << 20))
    return Outcome((f"big/{part.name}",), 1, 1)


def fill_and_hide_the_reason(part, context):
    try:
        return fill(part, context)
    except DiskFull as error:
        raise RuntimeError("the library could not write") from error.__cause__


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small file system is mounted by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("work", [fill, fill_and_hide_the_reason])
def test_a_disk_that_fills_up_stops_the_run_with_nothing_half_written(small_disk, work):
    run = write_texts(small_disk, TEXTS)
    execute(run)
    before = tree(run)
    big = dataclasses.replace(COUNT, name="big", run=work, tolerant=True)
    with pytest.raises(DiskFull, match="free some and run again"):
        execute(run, (COUNT, SUM, big))
    assert tree(run) == before  # refuses leftovers
    assert execute(run).exit_code(0.05) == 0


def test_a_full_disk_is_no_attempt_of_a_part(tmp_path):
    run = write_texts(tmp_path, TEXTS | {"a": "!raise"})

    def full(part, context):
        with contextlib.suppress(RuntimeError):
            COUNT.run(part, context)
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull):
        execute(run, (dataclasses.replace(COUNT, run=full, tolerant=True),))
    assert tries_of(run, "a") == 1


def test_a_full_disk_under_the_log_is_named_too(tmp_path):
    run = write_texts(tmp_path, TEXTS)
    execute(run)
    (run / "total.json").unlink()
    (run / "logs" / "metrics.jsonl").unlink()
    (run / "logs" / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(DiskFull):
        execute(run)
