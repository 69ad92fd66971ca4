"""Ids as hashes, so that nothing depends on counters or order."""

import hashlib
import unicodedata

_MASK_63 = (1 << 63) - 1


def hash63(*parts: object) -> int:
    """63-bit BLAKE2b of the parts joined by NUL."""
    text = "\0".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") & _MASK_63


def normalize_caption(caption: str) -> str:
    """NFC, so that the same letters typed in two ways are one caption."""
    return unicodedata.normalize("NFC", caption).strip()


def prompt_id(caption: str) -> int:
    """Id of a caption: the hash of its NFC form."""
    return hash63("prompt", normalize_caption(caption))
