import hashlib
import html.parser
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.text import markdown, short_hash, shorten, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a cat", "a cat"),
        ("\x1b[31mred\x1b[0m", "‹U+001B›[31mred‹U+001B›[0m"),
        ("\u202etxt.exe", "‹U+202E›txt.exe"),
        ("two\nlines\t\x7f\x85", "two‹U+000A›lines‹U+0009›‹U+007F›‹U+0085›"),
        ("\u2066isolate\u2069\u2028", "‹U+2066›isolate‹U+2069›‹U+2028›"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d🚀 é 漢", "👩\u200d🚀 é 漢"),
        ("tag\U000e0041", "tag‹U+E0041›"),
        ("", ""),
    ],
)
def test_unseen_characters_are_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_what_is_shown_has_no_effect_on_a_terminal(text: str) -> None:
    kinds = {unicodedata.category(c) for c in visible(text) if c not in "\u200c\u200d"}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_long_text_is_cut_and_says_so() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"
    assert len(shorten("\x00" * 10_000, 50)) == 50


def test_hash_is_the_start_of_sha256() -> None:
    expected = hashlib.sha256(b"a cat").hexdigest()[:12]
    assert short_hash("a cat") == f"sha256:{expected}"


@given(st.text())
def test_markdown_has_no_structure_left(text: str) -> None:
    escaped = str(markdown(text))
    assert not set("<>|\n") & set(escaped)
    without_escapes = re.sub(r"\\[\\`*_{}\[\]()#+\-.!~:@$=/]|&(amp|lt|gt|#124);", "", escaped)
    assert not set("\\`*_{}[]()#!~:@$&") & set(without_escapes)


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"])))
def test_markdown_reads_as_the_text_again(text: str) -> None:
    unescaped = re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", str(markdown(text)))
    assert html.unescape(unescaped) == html.unescape(text.replace("&", "&amp;"))
