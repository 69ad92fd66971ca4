"""Ways to draw beside erased models, through redraw and verify, on a tiny random model.

Its drawings are blobs, and with thresholds this wide all of them are copies of some picture.
"""

import json

import pyarrow.parquet as pq
import pytest
from shard_builder import ShardBuilder, jpeg, picture
from tiny_model import build_tiny_pipeline

from pipeline.config import make_config
from pipeline.errors import ConfigError
from pipeline.io import schemas
from pipeline.io.digest import sha256_once
from pipeline.io.tables import write_rows
from pipeline.jobs import Job, run_job
from pipeline.registry import AUDIT, DEDUP, ERASE, REPORT, VERIFY, fitting
from pipeline.runner.part import Context
from pipeline.runner.progress import SilentProgress
from pipeline.stages import redraw
from pipeline.stages.verify import _conclude

WAYS = [
    {"kind": "wen", "target": 0.01, "iterations": 2},
    {"kind": "caption", "change": "add", "count": 2},
    {"kind": "caption", "change": "replace", "words": "captions"},
    {"kind": "caption", "change": "gaussian", "noise": 1.0},
    {"kind": "transition", "share": 0.5},
    {"kind": "transition"},
    {"kind": "attention", "name": "ren"},
]
NAMES = [
    "wen",
    "caption-add",
    "caption-replace",
    "caption-gaussian",
    "transition-0.5",
    "transition-minimum",
    "ren",
]
ANYTHING = {"max_tiled_l2": 1.0, "max_l2": 1.0, "max_ratio": 5.0}


def config(root, ways, **more):
    return make_config(
        {
            "train": str(root / "train"),
            "findings": str(root / "audit"),
            "model": {"path": str(root / "model")},
            "prompts": {"controls": 6},
            "screen": {"seeds": 1, "steps": 1},
            "generate": {"per_prompt": 2, "steps": 4},
            "match": {"compare_px": 16},
            "verdict": ANYTHING,
            "verify": {
                "per_prompt": 2,
                "per_other": 2,
                "empty_prompt": 2,
                "mitigations": ways,
            },
            **more,
        }
    )


def run(root, name, stages, own):
    run_job(Job(own, root / name, fitting(stages, own)), SilentProgress())
    return root / name


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures seen once and a group of three, deduplicated and audited; a tiny model."""
    root = tmp_path_factory.mktemp("mitigated")
    shard = ShardBuilder(root / "shards" / "00000.tar")
    for number in range(12):
        shard.add(f"a{number}", jpeg(picture(number)), f"number {number}")
    for number in (3, 5, 7):
        for copy in range(2):
            shard.add(f"c{number}-{copy}", jpeg(picture(number), 80 - copy), f"number {number}")
    shard.write()
    made = make_config({"dataset": {"shards": [str(root / "shards")]}})
    run_job(Job(made, root / "train", DEDUP), SilentProgress())
    build_tiny_pipeline(root / "model")
    own = config(root, ()).model_copy(update={"findings": None})
    run_job(Job(own, root / "audit", fitting(AUDIT, own)), SilentProgress())
    findings = root / "audit" / "findings.parquet"
    rows = pq.read_table(findings).to_pylist()
    for row in rows:  # with these thresholds all are found
        row["verdict"] = "none" if row["role"] == "control" else row["verdict"]
    assert {row["verdict"] for row in rows} == {"none", "verbatim"}
    write_rows(findings, rows, schemas.FINDINGS)
    return root


@pytest.fixture(scope="module")
def verified(root):
    return run(root, "run", (*VERIFY, *REPORT), config(root, WAYS))


def said(run):
    return json.loads((run / "verification.json").read_text())["methods"]


def drawn(run, method):
    rows = []
    for path in sorted((run / "redraws").glob(f"part-{method}-0*.parquet")):
        rows += pq.read_table(path).to_pylist()
    return {(row["arm"], row["caption"], row["number"]): row for row in rows}


def test_each_way_has_its_rows(root, verified):
    methods = said(verified)
    assert set(methods) == set(NAMES)
    rows = pq.read_table(verified / "verification.parquet").to_pylist()
    weights = sha256_once(root / "model")
    base = drawn(verified, "base")
    for name, way in zip(NAMES, WAYS, strict=True):
        own = [row for row in rows if row["method"] == name]
        assert own and {row["model_sha256"] for row in own} == {weights}
        assert {row["attack"] for row in own} == {"none"}
        assert {"control", "empty", "trained"} <= set(methods[name]["arms"])
        assert way.items() <= methods[name]["mitigation"].items()
        again = drawn(verified, name)
        assert {k: row["seed"] for k, row in again.items()} == {
            k: row["seed"] for k, row in base.items()
        }
        assert any(row["drift"] > 0 for row in own if row["arm"] != "empty"), name


def test_the_weights_still_hold_it(verified):
    for method in said(verified).values():
        assert method["verdict"] in ("suppressed", "failed", "undecided")
        assert "weights are the base model's and still hold" in method["why"]
    page = (verified / "report" / "index.html").read_text()
    assert "drawn from the base model" in page and "At least one erased model" not in page


def test_never_more_than_suppressed(tmp_path):
    row = {"n": 200, "hits_before": 200, "hits_after": 0, "displaced_after": 0, "arm": "trained"}
    context = Context(tmp_path, make_config({}))
    told = _conclude([row | {"drift": 0.1, "seed_drift": 0.2}], context, mitigated=True)
    assert told["verdict"] == "suppressed" and "still hold" in told["why"]
    failed = row | {"hits_after": 100, "drift": 0.1, "seed_drift": 0.2}
    assert _conclude([failed], context, mitigated=True)["verdict"] == "failed"


def test_nothing_to_hold_back_is_the_base_model_s_own_drawing(root):
    ways = [{"kind": "transition", "share": 0}]
    found = run(root, "same", VERIFY, config(root, ways))
    rows = pq.read_table(found / "verification.parquet").to_pylist()
    assert rows and {row["drift"] for row in rows} == {0.0}
    assert all(row["hits_before"] == row["hits_after"] for row in rows)


def test_one_way_more_leaves_the_other_drawings(root, verified):
    """Beside an erased model; what was drawn before has the same bytes."""
    methods = [{"name": "uce", "objective": "uce"}]
    own = config(root, WAYS[:2], erase={"methods": methods})
    both = run(root, "both", (*ERASE, *VERIFY), own)
    assert set(said(both)) == {"uce", "wen", "caption-add"}
    assert "mitigation" not in said(both)["uce"]
    for name in ("base-00000", "wen-00000", "caption-add-00000"):
        for path in (f"redraws/{name}.tar", f"redraws/part-{name}.parquet"):
            assert (both / path).read_bytes() == (verified / path).read_bytes()


def test_a_name_is_one_thing(root, tmp_path):
    for ways, message in (
        ([{"kind": "wen"}, {"kind": "wen"}], "two mitigations are called wen"),
        ([{"kind": "wen", "name": "base"}], "stands for a model"),
        ([{"kind": "wen", "target": 0}], "greater than 0"),
        ([{"kind": "magic"}], "magic"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(root, ways)
    with pytest.raises(ConfigError, match="above 1"):
        dull = {"generate": {"steps": 4, "guidance": 1.0}}
        redraw.plan(Context(root / "audit", config(root, [{"kind": "transition"}], **dull)))
    table = root / "audit" / "findings.parquet"
    targets = [row for row in pq.read_table(table).to_pylist() if row["role"] == "target"]
    write_rows(tmp_path / "findings.parquet", targets, schemas.FINDINGS)
    with pytest.raises(ConfigError, match="no captions of controls"):
        redraw.plan(Context(tmp_path, config(root, WAYS[2:3], findings=str(tmp_path))))
    erased = tmp_path / "erased" / "wen"
    erased.mkdir(parents=True)
    (erased / "erasure.json").write_text("{}")
    with pytest.raises(ConfigError, match="wen is an erased model"):
        redraw.plan(Context(tmp_path, config(root, WAYS[:1])))
