"""What the erasers are given: an audit's findings that the truth confirms; pictures never seen."""

from pathlib import Path

import pyarrow.parquet as pq

from pipeline.demo.shards import Row, write_shards
from pipeline.detection.verdict import HITS
from pipeline.ids import hash63
from pipeline.io import schemas
from pipeline.io.digest import sha256_once
from pipeline.io.runfolder import FINDINGS
from pipeline.io.runjson import read_run_config, write_run
from pipeline.io.tables import read_rows, write_rows
from tests.bench.audit import work
from tests.bench.audit.measures import NEGATIVE
from tests.bench.audit.plans import Bench
from tests.bench.audit.planting import SIDE as PLANTED_SIDE
from tests.bench.audit.planting import SINGLE
from tests.bench.audit.results import truth_rows
from tests.bench.audit.sources import every_picture
from tests.bench.audit.steps import once
from tests.bench.audit.training import SHIPPED

MOST_UNSEEN = 200


def prepare(bench: Bench, name: str, *, retrain: bool = False) -> None:
    """Of the audit's benchmark what is missing: the set, the model, the truth, the audit.

    With `retrain` the counterfactual model too, which is trained on the deduplicated set.
    """
    source, _, _ = name.partition("-")
    work.make_set(bench, name)
    if source != SHIPPED:
        work.make_autoencoder_of(bench, source)
    work.make_model_of(bench, name)
    work.find_truth(bench, name)
    if not (work.audit_folder(bench, name, work.DEFAULT) / FINDINGS).is_file():
        work.deduplicate(bench, name)
        work.audit(bench, name, work.DEFAULT)
    if retrain:
        work.make_model_of(bench, bench.counterfactual)


def make_findings(bench: Bench, name: str) -> Path:
    """A run folder with findings.parquet as `erase` reads it; see `confirmed`."""
    audit, folder = work.audit_folder(bench, name, work.DEFAULT), findings_folder(bench, name)
    truth = bench.at("truth", name) / "truth.parquet"

    def build(out: Path) -> None:
        config = read_run_config(audit)
        train = bench.at("dedup", bench.set_of(name)).resolve()
        write_run(out, config.model_copy(update={"train": train}))
        rows = confirmed(read_rows(audit / FINDINGS, schemas.FINDINGS), truth_rows(bench, name))
        write_rows(out / FINDINGS, rows, schemas.FINDINGS)

    once(folder, {"audit": sha256_once(audit / FINDINGS), "truth": sha256_once(truth)}, build)
    return folder


def findings_folder(bench: Bench, name: str) -> Path:
    """Where the findings are that the erasers get."""
    return bench.at("erase", name) / "findings"


def confirmed(findings: list[dict], truth: list[dict]) -> list[dict]:
    """Findings with what the truth says of them.

    A flagged caption whose drawings mostly show its own picture stays; any other flagged one is
    made undecided, so that nothing is erased, or spared, that the model never drew. Captions of
    pictures seen once that draw nothing are controls, which a list of captions has none of.
    """
    known = {row["prompt_id"]: row for row in truth}
    rows = []
    for finding in findings:
        true = known[finding["prompt_id"]]
        row = {**finding}
        if row["verdict"] in HITS and true["p_own"] < 0.5:
            row["verdict"] = "undecided"
        elif true["regime"] == SINGLE and true["label"] == NEGATIVE:
            row["role"] = "control"
        rows.append(row)
    return rows


def make_unseen(bench: Bench, name: str) -> Path:
    """Shards of pictures of the same source that are not in the model's training set."""
    folder, planted = bench.at("erase", name) / "unseen", bench.set_of(name)
    table = bench.at("sets", planted) / "planted.parquet"
    source = bench.source(name)

    def build(out: Path) -> None:
        trained = set(pq.read_table(table, columns=["picture_id"])["picture_id"].to_pylist())
        left = {p.picture_id: p for p in every_picture(source) if p.picture_id not in trained}
        ranked = sorted(left.values(), key=lambda p: hash63("bench unseen", p.picture_id))
        size = (PLANTED_SIDE, PLANTED_SIDE)
        rows = [
            Row(f"unseen:{p.picture_id}", p.caption, p.picture_id, p.jpeg, size)
            for p in ranked[:MOST_UNSEEN]
        ]
        write_shards(out / "shards", rows, MOST_UNSEEN)

    once(folder, {"set": sha256_once(table), "most": MOST_UNSEEN}, build)
    return folder / "shards"
