"""Run folders in memory, where a flush to the disk costs nothing."""

import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path():
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
