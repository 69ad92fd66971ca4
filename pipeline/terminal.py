"""Text that anyone may have written, on its way to a terminal."""


def printable(text: str, *, keep: str = "") -> str:
    """`text` with every character that could steer a terminal replaced, those of `keep` aside."""
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)
