"""Text that anyone may have written, made fit to be shown.

A caption may hold terminal escapes, characters that turn the reading direction around, HTML or
Markdown. Here the invisible is made visible and, for Markdown, the meaningful is escaped; HTML is
escaped by the template engine.
"""

import hashlib
import unicodedata

from markupsafe import Markup

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # part of ordinary words in Persian and Hindi, and of emoji
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}
_MARKDOWN = frozenset("\\`*_{}[]()#+-.!~:@$=/")


def visible(text: str) -> str:
    """`text` on one line, with control, format and unassigned characters as visible signs."""
    return "".join(map(_sign, text))


def shorten(text: str, limit: int) -> str:
    """`visible` text of at most `limit` characters."""
    shown = visible(text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def short_hash(text: str) -> str:
    """A caption's stand-in in a redacted report: equal captions have equal ones."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"sha256:{digest[:12]}"


def markdown(text: str) -> Markup:
    """`visible` text that Markdown, tables included, shows as it is: no HTML, links or code."""
    return Markup("".join(map(_plain, visible(text))))  # noqa: S704  _plain is the escape


def _sign(character: str) -> str:
    unseen = unicodedata.category(character) in _UNSEEN and character not in _JOINERS
    return f"‹U+{ord(character):04X}›" if unseen else character


def _plain(character: str) -> str:
    escaped = f"\\{character}" if character in _MARKDOWN else character
    return _ENTITIES.get(character, escaped)
