"""Pictures of the user's own, chosen by hash: the same whatever the order of shards or rows."""

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.encoders import Encoded
from pipeline.encoders.pdq import MIRROR, Pdq
from pipeline.errors import ImageRejected, ShardCorrupt
from pipeline.ids import hash63
from pipeline.io.images import EXTENSIONS, ImageLimits, decode
from pipeline.io.shards import Shard, group_members, is_safe_key, read_member
from pipeline.io.tarscan import scan_tar

LONGEST_SIDE = 512
_COPY_BITS = 31
_MIN_QUALITY = 50


@dataclass(frozen=True)
class Place:
    """Where one picture lies."""

    name: str
    shard: Path
    offset: int
    size: int

    def read(self, limits: ImageLimits) -> Image.Image:
        """Decode, at most 512 pixels a side. Raises ImageRejected, ShardCorrupt."""
        with self.shard.open("rb") as handle:
            picture = decode(read_member(handle, self.offset, self.size), limits)
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        return picture


@dataclass
class Sample:
    """Distinct pictures in the order of their hashes, and how many were left out, by reason."""

    places: list[Place] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def leave_out(self, reason: str) -> None:
        """Count a picture that is not used."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


def choose(shards: Sequence[Shard], size: int, limits: ImageLimits, seed: int) -> Sample:
    """The `size` pictures of the smallest hashes, less those that cannot be used.

    Left out are pictures that do not decode, and copies of one chosen before: equal pixels, or PDQ
    hashes within 31 bits, also mirrored and without borders. Calling such a pair false would blame
    an encoder for being right.
    """
    sample = Sample()
    ranked = heapq.nsmallest(size, _places(shards, limits, seed, sample), key=lambda item: item[0])
    hashes: list[np.ndarray] = []
    pixels: set[str] = set()
    encoder = Pdq()
    for _, place in ranked:
        try:
            picture = place.read(limits)
        except (ImageRejected, ShardCorrupt) as error:
            sample.leave_out(getattr(error, "reason", "shard_corrupt"))
            continue
        digest = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()
        codes = _telling(encoder.encode([picture]))
        if digest in pixels or _near(codes, hashes):
            sample.leave_out("copy")
            continue
        pixels.add(digest)
        hashes += codes
        sample.places.append(place)
    return sample


def _telling(encoded: Encoded) -> list[np.ndarray]:
    """The hashes of the one picture that are of enough quality."""
    kinds = [kind for kind in (encoded, encoded.trimmed) if kind is not None]
    return [k.vectors[0] for k in kinds if k.quality is not None and k.quality[0] >= _MIN_QUALITY]


def _near(codes: list[np.ndarray], known: list[np.ndarray]) -> bool:
    if not codes or not known:
        return False
    both = np.stack([*codes, *(code ^ MIRROR for code in codes)])
    bits = np.bitwise_count(np.stack(known)[:, None] ^ both).sum(axis=-1)
    return bool((bits <= _COPY_BITS).any())


def _places(
    shards: Sequence[Shard], limits: ImageLimits, seed: int, sample: Sample
) -> Iterator[tuple[tuple[int, str], Place]]:
    for shard in shards:
        scan = scan_tar(shard.path)
        if scan.damage:
            sample.leave_out("damaged_shard")
            continue
        groups, _ = group_members(scan.members)
        for key, group in groups.items():
            found = next((group.members[e] for e in EXTENSIONS if e in group.members), None)
            if found is None or not is_safe_key(key) or group.repeated or not group.adjacent:
                continue
            if found.size > limits.max_bytes:
                continue
            place = Place(f"{shard.name}/{key}", shard.path, found.offset, found.size)
            yield (hash63("calibrate", seed, shard.name, key), place.name), place
