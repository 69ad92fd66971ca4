"""Files that another machine wrote come late or never."""

import os
import threading
import time
from pathlib import Path

import pytest

from pipeline.runner import sharing
from pipeline.runner.sharing import await_seen


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(sharing, "PATIENCE_S", 0.5)


def test_what_is_there_is_not_waited_for(tmp_path):
    for name in "abc":
        (tmp_path / name).touch()
    started = time.monotonic()
    assert await_seen([tmp_path / "a", tmp_path / "b", tmp_path, tmp_path.parent]) is None
    assert await_seen([]) is None
    assert time.monotonic() - started < 0.2


def test_what_comes_late_is_waited_for(tmp_path):
    late = tmp_path / "late"
    threading.Timer(0.2, late.touch).start()
    assert await_seen([late]) is None and late.exists()


@pytest.mark.parametrize("others", [(), ("a", "b")])
def test_what_never_comes_is_named(tmp_path, others):
    for name in others:
        (tmp_path / name).touch()
    paths = [tmp_path / name for name in (*others, "gone")]
    assert await_seen(paths) == tmp_path / "gone"
    assert await_seen([tmp_path / "no" / "a", tmp_path / "no" / "b"]) == tmp_path / "no" / "a"


def test_an_old_listing_is_waited_out_where_several_files_are_wanted(tmp_path, monkeypatch):
    """As on NFS: each file is found by its name before the folder's listing shows it."""
    for name in "ab":
        (tmp_path / name).touch()
    listed, asked = os.listdir, []

    def old(folder):
        asked.append(folder)
        return listed(folder) if len(asked) > 2 else ["a"]

    monkeypatch.setattr(os, "listdir", old)
    assert await_seen([tmp_path / "a", tmp_path / "b"]) is None
    assert asked == [tmp_path] * 3
    assert await_seen([Path(tmp_path / "b")]) is None and len(asked) == 3
