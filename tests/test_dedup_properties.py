"""What a deduplication promises, through the command line, on tiny shards.

Idempotent; the same whatever the order of rows, the shards and the workers; an unrelated picture
changes no group; kept and dropped are all pictures, each once; shards can be added later.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from shard_builder import ShardBuilder, jpeg, picture

from pipeline import cli

pytestmark = pytest.mark.slow

SAMPLES = [(f"p{i}", i, 90) for i in range(6)]
SAMPLES += [("copy", 2, 90), ("again", 2, 55), ("twin", 4, 60), ("third", 4, 91)]
EXPECTED = {
    frozenset(group)
    for group in (["p0"], ["p1"], ["p3"], ["p5"], ["p2", "copy", "again"], ["p4", "twin", "third"])
}


def write(folder: Path, samples, shards: int) -> Path:
    builders = [ShardBuilder(folder / f"{i:05d}.tar") for i in range(shards)]
    for place, (key, number, quality) in enumerate(samples):
        image = jpeg(picture(number), quality)
        builders[place % shards].add(key, image, f"picture {number}")
    for builder in builders:
        builder.write()
    return folder


@pytest.fixture
def dedup(monkeypatch):
    """The command in this process; it must end with 0."""

    def call(shards: Path, out: Path, *options: object) -> Path:
        command = ["unmemorize", "dedup", shards, "--out", out, "--encoder", "pdq", *options]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return out

    return call


def groups(run: Path) -> tuple[set[frozenset[str]], set[str]]:
    """Groups of keys, and the keys that are kept; the exported lists are checked on the way."""
    key = {
        row["image_id"]: row["key"]
        for path in run.glob("images/part-*.parquet")
        for row in pq.read_table(path).to_pylist()
    }
    found, kept = defaultdict(set), set()
    for row in pq.read_table(run / "duplicates.parquet").to_pylist():
        found[row["merged_into"] or row["group_id"]].add(key[row["image_id"]])
        kept |= {key[row["image_id"]]} if row["keep"] else set()
    lists = [
        pq.read_table(run / f"export/{name}.parquet")["key"].to_pylist()
        for name in ("keep", "drop")
    ]
    assert sorted([*lists[0], *lists[1]]) == sorted(key.values()) and set(lists[0]) == kept
    return {frozenset(group) for group in found.values()}, kept


def test_what_a_deduplication_promises(tmp_path, dedup):
    base = dedup(write(tmp_path / "a", SAMPLES, 2), tmp_path / "run")
    found, kept = groups(base)
    assert found == EXPECTED and all(len(group & kept) == 1 for group in found)

    data = (base / "duplicates.parquet").read_bytes()
    workers = dedup(tmp_path / "a", tmp_path / "workers", "--workers", 2)
    assert (workers / "duplicates.parquet").read_bytes() == data

    order = np.random.default_rng(0).permutation(len(SAMPLES))
    mixed = write(tmp_path / "b", [SAMPLES[i] for i in order], 3)
    assert groups(dedup(mixed, tmp_path / "mixed")) == (found, kept)

    more = write(tmp_path / "c", [*SAMPLES, ("other", 77, 90)], 2)
    assert groups(dedup(more, tmp_path / "more")) == (
        found | {frozenset(["other"])},
        kept | {"other"},
    )

    again = dedup(base / "export/shards", tmp_path / "again")
    assert groups(again) == ({frozenset([key]) for key in kept}, kept)


def test_shards_added_later_give_the_same_groups(tmp_path, dedup):
    order = np.random.default_rng(1).permutation(len(SAMPLES))
    halves = [[SAMPLES[i] for i in half] for half in np.array_split(order, 3)]
    run, before = None, (set(), set())
    for number, half in enumerate(halves):
        shards = write(tmp_path / f"s{number}", half, 1)
        options = ("--onto", run) if run else ()
        run = dedup(shards, tmp_path / f"run{number}", *options)
        found, kept = groups(run)
        assert kept >= before[1] and all(any(g <= h for h in found) for g in before[0])
        before = found, kept
    assert before[0] == EXPECTED
