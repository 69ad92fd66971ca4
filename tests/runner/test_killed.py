"""A run that is killed at any moment resumes to the bytes of one that never was."""

import itertools
import os
import signal
import time

import pytest
from toy_stages import (
    TEXTS,
    await_file,
    await_true,
    execute,
    spawn_command,
    spawn_doomed,
    stamps,
    tree,
    write_texts,
)

from pipeline.runner.engine import Options
from pipeline.runner.receipt import read_receipts


def die_and_resume(run, prepare, whole, options, **overrides):
    """Kill a run before each of its changes in turn, resume it, and yield what it left.

    What the killed run left is checked, too: a file of a final name is old or new, and whole.
    """
    for point in itertools.count(1):
        prepare()
        before = tree(run)
        child = spawn_doomed(point, run, options, **overrides)
        child.join(60)
        if child.exitcode == 0:
            return
        assert child.exitcode == -signal.SIGKILL
        for name, content in tree(run, swept=False).items():
            assert content in (before.get(name), whole.get(name)), f"{name}, killed at {point}"
        execute(run, options=options, **overrides)
        yield point, tree(run)


def empty(run):
    for path in sorted(run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_killed_at_every_write_flush_and_rename_of_a_first_run(tmp_path):
    run = write_texts(tmp_path, {"a": TEXTS["a"]})
    execute(run)
    whole = tree(run)
    points = 0
    for point, resumed in die_and_resume(run, lambda: empty(run), whole, Options()):
        assert resumed == whole, f"killed at {point}"
        points = point
    # two parts and their receipts: five files and a folder, each written, flushed and renamed
    assert points > 6 * 3


@pytest.mark.slow
def test_killed_at_every_point_of_a_rebuild_that_drops_orphans_and_failures(tmp_path):
    run = write_texts(tmp_path, TEXTS)

    def earlier():
        empty(run)
        write_texts(tmp_path, TEXTS)
        execute(run)
        (run / "receipts" / "count" / "a.failed.json").write_text("{}")
        (run.parent / "texts" / "c.txt").unlink()

    options = Options(rebuild=True)
    earlier()
    empty(run)
    execute(run, seed=5)
    whole = tree(run)
    points = 0
    for point, resumed in die_and_resume(run, earlier, whole, options, seed=5):
        assert resumed == whole, f"killed at {point}"
        points = point
    assert points > 2 * (2 * 2 + 2 * 2 + 2)


def test_what_was_done_before_the_kill_is_not_done_again(tmp_path):
    run = write_texts(tmp_path, TEXTS | {"b": "!wait"})
    child = spawn_command(run)
    await_file(run.parent / "texts" / "b.tries")
    child.kill()
    child.join(60)
    done = {name: stamp for name, stamp in stamps_of_finished(run).items() if "a" in name}
    (run.parent / "texts" / "b.go").touch()
    execute(run)
    assert done.items() <= stamps(run).items()


def stamps_of_finished(run):
    names = [name for receipt in read_receipts(run, "count") for name in receipt.outputs]
    files = [f for n in names for f in ([run / n] if (run / n).is_file() else (run / n).iterdir())]
    assert len(files) == 3  # of part a alone
    return {f.relative_to(run).as_posix(): (f.stat().st_mtime_ns, f.stat().st_ino) for f in files}


@pytest.fixture
def waiting(tmp_path):
    """A command in the middle of its second part of three."""
    run = write_texts(tmp_path, TEXTS | {"b": "!wait"})
    child = spawn_command(run)
    await_file(run.parent / "texts" / "b.tries")
    yield run, child
    if child.is_alive():
        child.kill()


def test_the_first_interrupt_lets_the_running_part_finish(waiting):
    run, child = waiting
    os.killpg(child.pid, signal.SIGINT)
    time.sleep(0.2)
    assert child.is_alive()
    (run.parent / "texts" / "b.go").touch()
    child.join(60)
    assert child.exitcode == 130
    assert {"receipts/count/a.json", "receipts/count/b.json"} <= set(tree(run))
    assert "receipts/count/c.json" not in tree(run)
    summary = execute(run)
    assert summary.exit_code(0.05) == 0
    assert "total.json" in tree(run)


def test_the_second_interrupt_stops_at_once_with_nothing_half_written(waiting):
    run, child = waiting
    os.killpg(child.pid, signal.SIGINT)
    time.sleep(0.2)
    os.killpg(child.pid, signal.SIGINT)
    child.join(10)
    assert child.exitcode == 130
    left = {name for name in tree(run) if not name.startswith("receipts/")}  # refuses leftovers
    assert left == {"counts/a.json", "words/a/first.txt", "words/a/drawn.txt"}
    (run.parent / "texts" / "b.go").touch()
    assert execute(run).exit_code(0.05) == 0


def test_an_interrupted_stage_with_a_failed_part_is_interrupted_not_failed(tmp_path):
    run = write_texts(tmp_path, {"a": "!refuse", "b": "!wait", "c": "seven\n"})
    child = spawn_command(run)
    await_file(run.parent / "texts" / "b.tries")
    os.killpg(child.pid, signal.SIGINT)
    (run.parent / "texts" / "b.go").touch()
    child.join(60)
    assert child.exitcode == 130


def test_two_commands_at_once_leave_the_first_alone(waiting):
    run, child = waiting
    second = spawn_command(run)
    second.join(60)
    assert second.exitcode == 1
    (run.parent / "texts" / "b.go").touch()
    child.join(60)
    assert child.exitcode == 0
    await_true(lambda: "total.json" in tree(run), 1)
