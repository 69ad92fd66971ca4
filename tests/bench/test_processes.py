import os
import sys

from tests.bench.processes import high_water, resident, watch

_CHILD = "import time; block = bytearray(200 << 20); time.sleep(1)"
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '''{_CHILD}'''])"


def test_memory_of_descendants_counts() -> None:
    done = watch([sys.executable, "-c", _PARENT], os.environ)
    assert done.status == 0
    assert 200 << 20 < done.peak < 1 << 30
    assert done.seconds >= 1


def test_why_is_the_last_line_with_something_in_it() -> None:
    code = "import sys; sys.exit('first\\n│ the reason │\\n╰────╯')"
    done = watch([sys.executable, "-c", code], os.environ)
    assert (done.status, done.why) == (1, "the reason")


def test_why_without_output_is_the_status() -> None:
    assert watch([sys.executable, "-c", "raise SystemExit(7)"], {}).why == "exit status 7"


def test_an_ended_process_holds_nothing() -> None:
    assert resident(2**22 + 1) == 0
    assert resident(os.getpid()) > 0
    assert high_water() >= resident(os.getpid()) - (64 << 20)
