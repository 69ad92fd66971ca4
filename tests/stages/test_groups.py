"""Pairs in, groups and survivors out: against the definitions, whatever the order and division."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from grouping_run import group_run, image_rows, pair_rows, write_grouping_run
from hypothesis import given, settings
from hypothesis import strategies as st

BIG = 2**62


def grouped(run, n, edges, *, rows=None, pairs=None, **settings):
    write_grouping_run(run, rows or image_rows(n), pairs or [pair_rows(edges)])
    return group_run(run, **settings)


def test_a_chain_is_shown_with_its_weakest_link(tmp_path):
    chain = [(0, 1, 0.95), (1, 2, 0.91), (2, 3, 0.97), (5, 6, 0.99)]
    rows = image_rows(7, captions=["a", "b", "c", "c", "d", "e", "e"])
    _, facts = grouped(tmp_path, 7, chain, rows=rows, quality="first")
    assert [row["group_id"] for row in facts] == [0, 5]  # 4 is alone
    assert (facts[0]["group_size"], facts[0]["n_captions"], facts[0]["diameter"]) == (4, 3, 3)
    assert facts[0]["weakest_link"] == pytest.approx(0.91)
    assert facts[0]["n_kept"] == 2  # 0 stands for 1, 2 for 3: the chain is split
    assert (facts[1]["n_kept"], facts[1]["diameter"]) == (1, 1)


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        ([f"another {i}" for i in range(6)], True),
        (["one"] * 6, False),  # one caption: a picture that was duplicated
        ([f"another {i}" for i in range(5)], False),  # too few
    ],
)
def test_many_copies_with_many_captions_are_a_placeholder(tmp_path, captions, expected):
    n = len(captions)
    rows = image_rows(n, captions=captions, pixels=["same"] * n)
    star = [(0, i, 1.0) for i in range(1, n)]
    _, (facts,) = grouped(tmp_path, n, star, rows=rows, placeholder_size=6)
    assert facts["placeholder"] is expected


def test_a_pair_that_two_encoders_found_counts_once(tmp_path):
    pairs = [pair_rows([(0, 1, 0.9)], "pdq"), pair_rows([(0, 1, 0.98)])]
    found, (facts,) = grouped(tmp_path, 2, [], pairs=pairs)
    assert facts["weakest_link"] == pytest.approx(0.98)
    assert [row["reason"] for row in found] == ["kept", "descriptor"]


def test_without_any_pair_all_are_unique(tmp_path):
    found, facts = grouped(tmp_path, 3, [])
    assert facts == []
    assert [(row["reason"], row["keep"], row["group_size"]) for row in found] == [
        ("unique", True, 1)
    ] * 3
    assert [row["representative_id"] for row in found] == [0, 1, 2]


def test_a_copy_of_a_dropped_centre_has_the_reason_of_its_centre(tmp_path):
    """1 and 2 are copies by pixels; 0 is larger, and PDQ found it near 1 alone."""
    rows = image_rows(3, pixels=["x", "y", "y"], sides=[9, 8, 8])
    pairs = [pair_rows([(0, 1, 0.9)], "pdq"), pair_rows([(1, 2, 1.0)], "pixels")]
    found, _ = grouped(tmp_path, 3, [], rows=rows, pairs=pairs)
    assert [row["reason"] for row in found] == ["kept", "pdq", "pdq"]
    assert [row["similarity_to_representative"] for row in found] == [1, 0.9, 0.9]


def components_by_hand(ids, edges):
    label = {i: i for i in ids}
    for _ in ids:
        for a, b, _ in edges:
            label[a] = label[b] = min(label[a], label[b])
    return label


def survivors_by_hand(rows, edges):
    near = {frozenset(e[:2]) for e in edges}
    kept = []
    for row in sorted(rows, key=lambda r: (-r["width"] * r["height"], r["sha256"], r["uid"])):
        if not any(frozenset((row["image_id"], k)) in near for k in kept):
            kept.append(row["image_id"])
    return set(kept)


@st.composite
def runs(draw):
    n = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    ids = sorted(int(i) + BIG * int(rng.integers(0, 2)) for i in rng.choice(100, n, replace=False))
    ids = [ids[i] for i in rng.permutation(n)]
    edges = {}
    for _ in range(draw(st.integers(0, 20)) if n > 1 else 0):
        a, b = sorted(int(i) for i in rng.choice(np.array(ids), 2, replace=False))
        edges[a, b] = round(float(rng.choice([0.9, 0.95, 0.99])), 2)
    sides = rng.choice([8, 9, 10], n).tolist()
    return ids, sides, [(a, b, s) for (a, b), s in edges.items()], rng


@settings(max_examples=25, deadline=None)
@given(runs())
def test_groups_are_those_of_the_definition_however_the_run_is_divided(tmp_path_factory, drawn):
    ids, sides, edges, rng = drawn
    n, whole = len(ids), None
    for shards, tables, size, memory in ((1, 1, 10**6, 4), (3, 3, 2, 0)):
        root = tmp_path_factory.mktemp("run")
        rows = image_rows(n, ids=ids, sides=sides)
        for row, shard in zip(rows, rng.integers(0, shards, n), strict=True):
            row["shard"] = f"{shard:05d}"
        rows = [rows[i] for i in rng.permutation(n)]
        mixed = [edges[i] for i in rng.permutation(len(edges))]
        pairs = [pair_rows(mixed[i::tables]) for i in range(tables)]
        found, facts = grouped(
            root, n, [], rows=rows, pairs=pairs, rows_per_part=size, max_memory_gb=memory
        )
        data = [(root / name).read_bytes() for name in ("duplicates.parquet", "groups.parquet")]
        assert whole is None or data == whole
        whole = data
    label = components_by_hand(ids, edges)
    assert [row["image_id"] for row in found] == sorted(ids)  # each once
    assert all(row["group_id"] == label[row["image_id"]] for row in found)
    sizes = {g: list(label.values()).count(g) for g in label.values()}
    assert all(row["group_size"] == sizes[row["group_id"]] for row in found)
    assert {row["image_id"] for row in found if row["keep"]} == survivors_by_hand(rows, edges)
    similarity = {frozenset(e[:2]): e[2] for e in edges}
    for row in found:  # the cover guarantee
        if not row["keep"]:
            pair = frozenset((row["image_id"], row["representative_id"]))
            assert row["similarity_to_representative"] == similarity[pair]
    assert [row["group_id"] for row in facts] == sorted(g for g, size in sizes.items() if size > 1)


def test_ranges_of_ids_are_written_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.stages.groups._ROWS_AT_ONCE", 4)
    found, _ = grouped(tmp_path, 13, [(3, 9, 0.9)], rows=image_rows(13, shards=3))
    assert [row["image_id"] for row in found] == list(range(13))
    assert [row["uid"] for row in found] == [f"u{i}" for i in range(13)]
    assert pq.ParquetFile(tmp_path / "duplicates.parquet").num_row_groups == 4
    assert not list(tmp_path.glob(".*tmp*"))


def test_a_chain_is_split_into_subgroups_of_one_group(tmp_path):
    chain = [(0, 1, 0.99), (1, 2, 0.95), (2, 3, 0.91), (3, 4, 0.96), (4, 5, 0.97), (7, 8, 0.9)]
    found, facts = grouped(tmp_path, 9, chain)
    assert [row["group_id"] for row in found] == [0, 0, 0, 0, 0, 0, 6, 7, 7]
    assert [row["subgroup_id"] for row in found] == [0, 0, 0, 3, 3, 3, 6, 7, 7]
    assert [row["group_size"] for row in found] == [6] * 6 + [1, 2, 2]
    assert [(row["n_subgroups"], row["diameter"]) for row in facts] == [(2, 5), (1, 1)]


@settings(max_examples=15, deadline=None)
@given(runs())
def test_an_unrelated_picture_changes_no_group_and_nothing_else(tmp_path_factory, drawn):
    ids, sides, edges, _ = drawn
    found = []
    for more in ([], [5 * BIG // 4]):
        rows = image_rows(len(ids) + len(more), ids=ids + more, sides=[*sides, 99])
        root = tmp_path_factory.mktemp("run")
        found.append(grouped(root, 0, [], rows=rows, pairs=[pair_rows(edges)] if edges else None))
    (old, old_facts), (new, new_facts) = found
    assert new_facts == old_facts
    assert [row for row in new if row["image_id"] in ids] == old
    (added,) = (row for row in new if row["image_id"] not in ids)
    assert (added["reason"], added["keep"], added["group_size"]) == ("unique", True, 1)


@settings(max_examples=15, deadline=None)
@given(runs())
def test_what_is_kept_is_kept_by_another_run(tmp_path_factory, drawn):
    """Idempotent: among the kept ones no pair is left."""
    ids, sides, edges, _ = drawn
    first, second = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("run")
    rows = image_rows(len(ids), ids=ids, sides=sides)
    found, _ = grouped(first, 0, [], rows=rows, pairs=[pair_rows(edges)] if edges else None)
    kept = {row["image_id"] for row in found if row["keep"]}
    left = [edge for edge in edges if set(edge[:2]) <= kept]
    rows = [row for row in rows if row["image_id"] in kept]
    again, facts = grouped(second, 0, [], rows=rows, pairs=[pair_rows(left)] if left else None)
    assert all(row["keep"] for row in again) and len(again) == len(kept) and not facts
