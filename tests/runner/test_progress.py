"""What a person sees, and what hostile names cannot make a terminal do."""

import io
import time
import unicodedata

import pytest
from rich.console import Console

from pipeline.runner.progress import ConsoleProgress

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "\x9b2Jcleared",
    "over\rwritten",
    "two\nlines",
    "back\b\b\bspace",
    "\u202egnp.exe",
    "\u2066hidden\u2069",
    "bell\x07 nul\x00 delete\x7f",
    "surrogate\udc80",
]


def shown(*, terminal=False, notes=(), parts=()):
    stream = io.StringIO()
    progress = ConsoleProgress(Console(file=stream, force_terminal=terminal, width=60))
    progress.start("count", 3, 1)
    for part in parts:
        progress.advance(part, failed=False)
    for note in notes:
        progress.note(note)
    progress.finish("count", (10, 8), {"small": 1, "broken": 1}, 1.234)
    return stream.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_stays_one_printable_line(text):
    lines = shown(notes=[text], parts=[text]).split("\n")
    assert len(lines) == 3  # the note, the stage, the end
    kinds = {unicodedata.category(character) for line in lines for character in line}
    assert not kinds & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@pytest.mark.parametrize("text", ["[link=http://evil]x[/link]", "[/]", ":warning: [red]", "a\\[b"])
def test_markup_in_a_text_is_shown_as_it_is(text):
    assert shown(notes=[text]).split("\n")[0] == f"  {text}"


def test_a_stage_that_ends_is_one_line():
    assert shown() == "count     10 rows in, 8 out; rejected: 1 broken, 1 small  [1.2 s]\n"


def test_a_long_line_is_not_broken():
    assert shown(notes=["word " * 60]).split("\n")[0].count("word") == 60


def test_a_long_part_does_not_look_like_a_hang(monkeypatch):
    """A line a minute, also while no part ends; none once the stage has."""
    monkeypatch.setattr("pipeline.runner.progress._PLAIN_EVERY_S", 0.02)
    stream = io.StringIO()
    progress = ConsoleProgress(Console(file=stream, force_terminal=False))
    progress.start("count", 100, 10)
    progress.advance("x", failed=False)
    deadline = time.monotonic() + 10
    while stream.getvalue().count("count: 11 of 100 parts") < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stream.getvalue().count("count: 11 of 100 parts") >= 2
    progress.close()
    time.sleep(0.05)
    length = len(stream.getvalue())
    time.sleep(0.1)
    assert len(stream.getvalue()) == length


def test_the_bar_of_a_terminal_goes_and_its_cursor_comes_back():
    output = shown(terminal=True, notes=["\x1b[2Jcleared"])
    assert "\x1b[2J" not in output
    assert output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l")
