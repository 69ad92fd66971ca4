"""Figures of a made-up run of `verify` against what a hand counts."""

import io
import json

import pytest
from rich.console import Console

from pipeline.detection.intervals import wilson
from pipeline.io import schemas
from pipeline.io.tables import write_rows
from tests.bench.erase import measures
from tests.bench.erase.runs import Cost
from tests.bench.erase.table import WIDTH, results_table

METHOD = "esd-x-12345678"


def verified(arm, group, before, after, *, n=4, attack="none", displaced=0, drift=None):
    return {
        "method": METHOD,
        "attack": attack,
        "arm": arm,
        "target_group": group,
        "prompt_id": hash((arm, group)) % 1000,
        "caption": f"{arm} {group}",
        "n": n,
        "hits_before": before,
        "hits_after": after,
        "displaced_after": displaced,
        "rate_before": before / n,
        "rate_after": after / n,
        "ci_low": 0.0,
        "ci_high": 1.0,
        "drift": drift,
        "seed_drift": None if drift is None else 0.2,
        "model_sha256": "0" * 64,
    }


def drawn(number, group, shown, verdict):
    plain = {field.name: None for field in schemas.REDRAWS}
    known = {"redraw_id": number, "key": str(number), "method": "base", "prompt_id": 1}
    known |= {"caption": "trained 1", "arm": "trained", "number": number, "seed": number}
    return plain | known | {"target_group": group, "group_id": shown, "verdict": verdict}


@pytest.fixture
def run(tmp_path):
    rows = [
        verified("trained", 1, 4, 1, displaced=2),
        verified("trained", 2, 4, 0),
        verified("held_out", 1, 3, 2),
        verified("held_out", 2, 0, 4),  # never drew it: says nothing
        verified("kept", 3, 2, 1),
        verified("kept", 4, 4, 2),
        verified("kept", 4, 4, 2),
        verified("kept", 5, 1, 4),  # was not drawn before
        verified("control", 6, 0, 0, drift=0.1),
        verified("control", 7, 0, 0, drift=0.3),
        verified("target", 1, 4, 2, attack="embedding-other"),
        verified("unseen", None, 1, 0, attack="embedding-other", n=8),
    ]
    write_rows(tmp_path / "verification.parquet", rows, schemas.VERIFICATION)
    loss = {"control": {"change": 0.02, "pictures": 9, "interval": [0.01, 0.03]}}
    said = {"verdict": "failed", "damage": ["drift"], "collateral": {"loss": loss}}
    (tmp_path / "verification.json").write_text(json.dumps({"methods": {METHOD: said}}))
    base = [drawn(0, 1, 1, "verbatim"), drawn(1, 1, 9, "verbatim"), drawn(2, 1, 9, "none")]
    path = tmp_path / "redraws" / "part-base-00000.parquet"
    write_rows(path, base, schemas.REDRAWS)
    return tmp_path


def counted(rate):
    return None if rate is None else (rate.hits, rate.n)


def test_an_erased_model_is_counted_after_and_the_base_before(run):
    base, erased = measures.read_figures(run, [METHOD], 2)
    assert (counted(base.trained), counted(erased.trained)) == ((8, 8), (1, 8))
    assert (counted(base.held_out), counted(erased.held_out)) == ((3, 4), (2, 4))
    assert (counted(base.kept), counted(erased.kept)) == ((2, 2), (1, 2))
    assert (counted(base.displaced), counted(erased.displaced)) == ((1, 3), (2, 16))
    assert erased.trained.wilson == wilson(1, 8)
    assert (erased.verdict, erased.damage) == ("failed", ("drift",))


def test_the_attack_is_beside_pictures_never_seen(run):
    base, erased = measures.read_figures(run, [METHOD], 2)
    assert (counted(base.attacked), counted(base.floor)) == ((4, 4), (1, 8))
    assert (counted(erased.attacked), counted(erased.floor)) == ((2, 4), (0, 8))
    assert base.above.value == pytest.approx(7 / 8)
    assert erased.above.interval[0] < 0.5 < erased.above.interval[1]


def test_an_oracle_takes_the_place_of_unseen_pictures_on_both_sides(run):
    rows = [
        verified("trained", 1, 4, 1),
        verified("target", 1, 4, 2, attack="embedding-other"),
        verified("oracle", 1, 4, 1, attack="embedding-other"),  # beside the base, which had 4
        verified("unseen", None, 3, 3, attack="embedding-other"),
    ]
    write_rows(run / "verification.parquet", rows, schemas.VERIFICATION)
    base, erased = measures.read_figures(run, [METHOD], 1)
    assert counted(base.floor) == counted(erased.floor) == (1, 4)
    assert (base.above.value, erased.above.value) == (0.75, 0.25)


def test_drift_is_a_ratio_of_sums_and_the_loss_is_verifys_own(run):
    _, erased = measures.read_figures(run, [METHOD], 2)
    assert erased.drift.value == pytest.approx(0.4 / 0.4)
    assert (erased.loss.value, erased.loss.n, erased.loss.interval) == (0.02, 9, (0.01, 0.03))


def test_without_held_out_captions_that_drew_there_is_no_rate(run):
    rows = [verified("trained", 1, 4, 0), verified("held_out", 1, 0, 0)]
    write_rows(run / "verification.parquet", rows, schemas.VERIFICATION)
    base, erased = measures.read_figures(run, [METHOD], 1)
    assert base.held_out is None and erased.held_out is None
    assert erased.attacked is None and erased.above is None and counted(erased.kept) == (0, 0)


def test_the_table_shows_counts_bounds_and_costs_a_target(run):
    out = io.StringIO()
    costs = [None, Cost(30.0, 5000, 2**30)]
    rows = list(zip(measures.read_figures(run, [METHOD], 2), costs, strict=True))
    Console(file=out, width=WIDTH).print(results_table(rows, "made up"))
    text = out.getvalue()
    low, high = (f"{bound:.3f}".lstrip("0") for bound in wilson(1, 8))
    for shown in ("1 of 8", f"{low} to {high}", "floor 0 of 8", "+2.0%", "15.0", "2,500", "1.00"):
        assert shown in text, shown
    assert "damaged" in text and "…" not in text
