"""The kept picture of a group by a column of the user's: Parquet, json, tables beside vectors."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from grouping_run import image_rows, images_table
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_builder import ShardBuilder, jpeg, picture
from vector_builder import parquet, planted

from pipeline.config import make_config
from pipeline.errors import ConfigError, SchemaMismatch
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.progress import SilentProgress
from pipeline.stages.quality import quality_rank


def dedup(out, shards, **sections):
    values = {"dataset": {"shards": [str(shards)]}, "embed": {"encoders": {"pdq": {"kind": "pdq"}}}}
    values |= {"pairs": {"min_similarity": {}}, "match": {"encoders": []}} | sections
    run_job(Job(make_config(values), out, DEDUP), SilentProgress())
    return {row["key"] for row in pq.read_table(out / "export/keep.parquet").to_pylist()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four pictures; of 0 and 1 a copy in the other shard. The best is never the first."""
    root = tmp_path_factory.mktemp("shards")
    first, second = ShardBuilder(root / "00000.tar"), ShardBuilder(root / "00001.tar")
    scores = {"a0": 4.5, "a1": float("nan"), "a2": 1.0, "b0": 5.5, "b1": -3.0, "b3": None}
    second.rows.append({"key": "gone", "status": "failed_to_download", "aesthetic": 99.0})
    for key, score in scores.items():
        builder = first if key[0] == "a" else second
        builder.add(key, jpeg(picture(int(key[1]))), f"c {key}", aesthetic=score)
    first.rows.reverse()  # joined on the key, not by place
    for builder in (first, second):
        builder.write()
    return root


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"quality": "column:aesthetic"}, {"b0", "b1", "a2", "b3"}),  # NaN is worse than -3
        ({"quality": "column:aesthetic", "ascending": True}, {"a0", "b1", "a2", "b3"}),
        ({"quality": "first"}, {"a0", "a1", "a2", "b3"}),
    ],
)
def test_the_best_by_a_column_of_the_parquet_is_kept(tmp_path, shards, settings, kept):
    assert dedup(tmp_path / "run", shards, groups=settings) == kept


def test_a_field_of_the_json_does_too(tmp_path, shards):
    folder = tmp_path / "json"
    for name, keys in (("00000", ("a0", "a2")), ("00001", ("b0",))):
        builder = ShardBuilder(folder / f"{name}.tar")
        for key in keys:
            builder.add(key, jpeg(picture(int(key[1]))), "c")
        texts = [json.dumps({"clip": 0.1 if key == "a0" else 0.2, "x": 1}) for key in keys]
        places = [i for i, (n, _) in enumerate(builder.members) if n.endswith("json")]
        for place, text in zip(places, texts, strict=True):
            builder.members[place] = (builder.members[place][0], text.encode())
        builder.write(metadata=False)
    groups = {"quality": "column:clip"}
    assert dedup(tmp_path / "run", folder, groups=groups) == {"b0", "a2"}


def test_a_column_beside_vectors(tmp_path):
    vectors = planted(5, copies=0)
    vectors[4] = vectors[1]
    for score, kept in (([0, 1, 0, 0, 2], "k4"), ([0, 2, 0, 0, 1], "k1")):
        folder = tmp_path / kept
        keys = [f"k{i}" for i in range(5)]
        kind = pa.list_(pa.float32())
        parquet(folder / "v" / "x.parquet", list(vectors), kind, id=keys, score=score)
        dataset = {"shards": [str(folder / "v")], "embeddings": True}
        sections = {
            "pairs": {"min_similarity": {"given": 0.9}},
            "dataset": dataset,
            "groups": {"quality": "column:score"},
        }
        run_job(Job(make_config(sections), folder / "run", DEDUP), SilentProgress())
        table = pq.read_table(folder / "run/export/keep.parquet")
        assert set(table["key"].to_pylist()) == {"k0", "k2", "k3", kept}


def test_a_column_that_no_shard_has_is_named_with_its_neighbours(tmp_path, shards):
    with pytest.raises(ConfigError, match=r"no shard has a column aestetic; did you mean aesth"):
        dedup(tmp_path / "run", shards, groups={"quality": "column:aestetic"})
    with pytest.raises(ConfigError, match=r"there are .*aesthetic"):
        dedup(tmp_path / "run", shards, groups={"quality": "column:zzz"})


def test_a_column_of_text_is_refused_and_a_wrong_name_too(tmp_path, shards):
    from pipeline.config import make_config as make
    from pipeline.runner.part import Context
    from pipeline.stages import quality

    config = make({"dataset": {"shards": [str(shards)]}, "groups": {"quality": "column:url"}})
    dedup(tmp_path / "run", shards)
    context = Context(tmp_path / "run", config)
    with pytest.raises(SchemaMismatch, match="column url is string, expected numbers"):
        quality.run(quality.plan(context)[0], context)
    with pytest.raises(ConfigError, match="or column:aesthetic"):
        make({"groups": {"quality": "aesthetic"}})
    with pytest.raises(ConfigError, match="needs a name"):
        make({"groups": {"quality": "column:"}})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.floats(-3, 3), st.just(float("inf"))), min_size=1, max_size=12
    ),
    st.booleans(),
    st.randoms(),
)
def test_the_rank_is_that_of_the_definition_in_any_order(values, ascending, random):
    rows = image_rows(len(values))
    for row in rows:
        row["sha256"] = random.choice(["a", "b", None])

    def worse(i):
        value = values[i]
        known = value is not None and not np.isnan(value)
        number = (value if ascending else -value) if known else 0
        return not known, number, rows[i]["sha256"] or "", rows[i]["uid"], rows[i]["image_id"]

    expected = sorted(range(len(rows)), key=worse)
    numbers = np.array([np.nan if v is None else v for v in values])
    order = np.array(random.sample(range(len(rows)), len(rows)))
    rank = quality_rank(
        images_table([rows[i] for i in order]), "column:x", numbers[order], ascending=ascending
    )
    assert order[np.argsort(rank)].tolist() == expected
