import os
import subprocess
import sys

import pytest

from pipeline.runner.memory import keep_memory

COUNT = """
import resource, sys
import numpy as np
from pipeline.runner.memory import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
keep = []
def work():
    a, b = np.ones(20 << 20, np.uint8), np.ones(20 << 20, np.uint8)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode):
    # A cluster of an earlier test may have left the variables that do the same.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", COUNT, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return int(done.stdout)


@pytest.mark.skipif(not keep_memory(), reason="not glibc")
def test_memory_that_was_freed_is_used_again():
    assert faults("keep") < faults("") / 10
