import errno
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from pipeline.errors import DiskFull
from pipeline.io.atomic import (
    TEMPORARY_PREFIX,
    atomic_path,
    is_disk_full,
    remove,
    sweep,
    write_bytes,
)

_SLOW_WRITER = """
import sys, time
from pathlib import Path
from pipeline.io.atomic import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary, temporary.open("wb") as stream:
    stream.write(b"half")
    stream.flush()
    print("half way", flush=True)
    time.sleep(60)
"""


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_is_whole_and_alone(tmp_path):
    write_bytes(tmp_path / "deep" / "file", b"content")
    assert (tmp_path / "deep" / "file").read_bytes() == b"content"
    assert names(tmp_path) == ["deep", "file"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="mine"), atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        raise RuntimeError("mine")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_an_interrupt_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "file") as temporary:
        temporary.write_bytes(b"new")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize("previous", [b"", b"old"])
def test_a_killed_writer_leaves_no_final_name(tmp_path, previous):
    target = tmp_path / "file"
    if previous:
        target.write_bytes(previous)
    writer = subprocess.Popen(
        [sys.executable, "-c", _SLOW_WRITER, str(target)], stdout=subprocess.PIPE
    )
    try:
        assert writer.stdout.readline() == b"half way\n"
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
    assert (target.read_bytes() if target.exists() else b"") == previous
    assert sweep(tmp_path) == 1
    assert names(tmp_path) == (["file"] if previous else [])


def test_writers_killed_at_any_moment_never_show_a_partial_file(tmp_path):
    target = tmp_path / "file"
    loop = (
        "import sys, itertools; from pathlib import Path\n"
        "from pipeline.io.atomic import write_bytes\n"
        "print('ready', flush=True)\n"
        "for i in itertools.count(): write_bytes(Path(sys.argv[1]), bytes([i % 256]) * 300_000)"
    )
    for attempt in range(12):
        writer = subprocess.Popen([sys.executable, "-c", loop, str(target)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(0.01 * attempt)
        writer.kill()
        writer.communicate()
        if target.exists():
            content = target.read_bytes()
            assert len(content) == 300_000
            assert len(set(content)) == 1
        sweep(tmp_path)
        assert set(names(tmp_path)) <= {"file"}


def test_two_writers_of_one_path_do_not_meet(tmp_path):
    """Process numbers repeat, on hosts that share a folder and in containers."""
    with atomic_path(tmp_path / "folder") as first:
        first.mkdir()
        (first / "first").write_bytes(b"1")
        with atomic_path(tmp_path / "folder") as second:
            assert second != first
            second.mkdir()
            (second / "second").write_bytes(b"2")
        assert names(tmp_path / "folder") == ["second"]
    assert names(tmp_path / "folder") == ["first"]


def test_a_folder_replaces_a_folder_whole(tmp_path):
    target = tmp_path / "folder"
    for generation in ("first", "second"):
        with atomic_path(target) as temporary:
            (temporary / "inner").mkdir(parents=True)
            (temporary / "inner" / generation).write_text(generation)
    assert names(target) == ["inner", "second"]
    assert names(tmp_path) == ["folder", "inner", "second"]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(ValueError, match="mine"), atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
        raise ValueError("mine")
    assert names(tmp_path) == ["folder", "old"]


def test_sweep_takes_leftovers_at_any_depth_and_nothing_else(tmp_path):
    (tmp_path / "kept" / f"{TEMPORARY_PREFIX}1-folder").mkdir(parents=True)
    (tmp_path / "kept" / f"{TEMPORARY_PREFIX}1-folder" / f"{TEMPORARY_PREFIX}2-x").write_text("x")
    (tmp_path / f"{TEMPORARY_PREFIX}3-file").write_text("x")
    (tmp_path / "kept" / "tmp-file").write_text("x")
    (tmp_path / f"{TEMPORARY_PREFIX}4-dangling").symlink_to(tmp_path / "nowhere")
    sweep(tmp_path)
    assert names(tmp_path) == ["kept", "tmp-file"]
    assert sweep(tmp_path) == 0


def test_remove_does_not_follow_a_link(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    remove(tmp_path / "link")
    remove(tmp_path / "not there")
    assert names(tmp_path) == ["file", "theirs"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """A write beyond RLIMIT_FSIZE fails with EFBIG, as one on a full disk does with ENOSPC."""
    script = (
        "import sys; from pathlib import Path; from pipeline.io.atomic import write_bytes\n"
        "from pipeline.errors import DiskFull\n"
        "try: write_bytes(Path(sys.argv[1]), bytes(100_000))\n"
        "except DiskFull as error: print(error)"
    )
    target = tmp_path / "file"
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.stdout == f"{target}: no room on the disk; free some and run again\n"
    assert names(tmp_path) == []


def test_a_really_full_device_is_named(tmp_path):
    """/dev/full answers every write with ENOSPC."""
    with pytest.raises(DiskFull, match="no room"), atomic_path(tmp_path / "file") as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x")
    assert names(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_small_disk_that_fills_up(small_disk):
    write_bytes(small_disk / "file", b"old")
    with pytest.raises(DiskFull, match="no room"):
        write_bytes(small_disk / "file", bytes(200_000))
    assert (small_disk / "file").read_bytes() == b"old"
    assert names(small_disk) == ["file"]


def test_disk_full_is_known_by_number_cause_and_text():
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = full
    assert is_disk_full(full)
    assert is_disk_full(wrapped)
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))


def test_a_library_that_wraps_a_full_disk_in_its_own_error(tmp_path):
    with pytest.raises(DiskFull), atomic_path(tmp_path / "file"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device")
