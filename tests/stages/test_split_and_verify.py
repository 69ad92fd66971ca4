"""What an eraser may see, and what is concluded from drawings before and after."""

import pytest

from pipeline.config import make_config
from pipeline.detection.verdict import Thresholds
from pipeline.io import schemas
from pipeline.io.runfolder import FINDINGS
from pipeline.io.tables import write_rows
from pipeline.runner.part import Context
from pipeline.stages.split import split_findings
from pipeline.stages.verify import _conclude, _own_hits

LIMITS = Thresholds(clique_fraction=0.5, min_hits=2)


def _finding(number, group, *, role="target", verdict="verbatim"):
    return {
        "prompt_id": number,
        "caption": f"caption {number}",
        "group_id": group,
        "role": role,
        "n_duplicates": 8,
        "n_caption_copies": 4,
        "verdict": verdict,
        "calibration": "",
        "n_generated": 4,
        "n_hits": 4,
        "seeds_hit": [],
        "clique_size": 4,
        "clique_capped": False,
        "image_ids": [1],
        "n_unet_forwards": 0,
    }


def _context(run, **erase):
    rows = [_finding(i, 1 + i // 3) for i in range(9)]
    rows += [_finding(20, 20, verdict="none"), _finding(21, 21, verdict="undecided")]
    rows += [_finding(30 + i, 30 + i, role="control", verdict="none") for i in range(6)]
    rows += [_finding(40, 40, role="control", verdict="verbatim")]
    write_rows(run / FINDINGS, rows, schemas.FINDINGS)
    return Context(run, make_config({"erase": erase}))


def _ids(rows):
    return {row["prompt_id"] for row in rows}


def test_no_caption_is_in_two_places(tmp_path):
    split = split_findings(_context(tmp_path, max_groups=2))
    parts = [split.trained, split.held_out, split.kept, split.retained, split.controls]
    everything = [row["prompt_id"] for part in parts for row in part]
    assert len(everything) == len(set(everything))


def test_each_target_keeps_a_caption_back_and_one_to_train_on(tmp_path):
    split = split_findings(_context(tmp_path, max_groups=2))
    assert len(split.groups) == 2
    for group, rows in split.groups.items():
        held = [row for row in split.held_out if row["group_id"] == group]
        assert (len(rows), len(held)) == (2, 1)


def test_groups_that_are_not_erased_are_kept_to_look_at(tmp_path):
    split = split_findings(_context(tmp_path, max_groups=1))
    spared = [row for row in split.retained if row["role"] == "target"] + list(split.kept)
    assert len([r for r in spared if r["prompt_id"] != 40]) == 6  # two groups of three captions
    assert {r["group_id"] for r in split.kept}.isdisjoint(r["group_id"] for r in split.retained)


def test_only_the_verdicts_asked_for_are_erased(tmp_path):
    split = split_findings(_context(tmp_path))
    assert _ids(split.trained) | _ids(split.held_out) == {*range(9), 40}


def test_controls_are_halved(tmp_path):
    split = split_findings(_context(tmp_path))
    retained = [row for row in split.retained if row["role"] == "control"]
    assert len(retained) == len(split.controls) == 3
    assert _ids(retained) | _ids(split.controls) == set(range(30, 36))


def _drawing(verdict, group, target, leaning=None):
    return {
        "verdict": verdict,
        "group_id": group,
        "target_group": target,
        "leaning_group": leaning,
    }


def test_own_hits():
    rows = [_drawing("verbatim", 1, 1), _drawing("verbatim", 2, 1), _drawing("none", 1, 1)]
    assert _own_hits(rows, LIMITS) == 1
    assert _own_hits([_drawing("verbatim", 5, None), _drawing("none", None, None)], LIMITS) == 1


def test_drawings_that_lean_to_the_own_picture_count_if_most_do():
    hit, lean = _drawing("verbatim", 1, 1), _drawing("none", None, 1, leaning=1)
    away, other = _drawing("none", None, 1), _drawing("none", None, 1, leaning=2)
    assert _own_hits([hit, lean, away, other], LIMITS) == 2
    assert _own_hits([lean, lean, away], LIMITS) == 2
    assert _own_hits([lean, lean, away, away, away], LIMITS) == 0  # too few to speak for all
    assert _own_hits([hit, lean, away, away, away], LIMITS) == 1
    empty = [_drawing("none", None, None, leaning=None)] * 4
    assert _own_hits(empty, LIMITS) == 0  # the empty prompt has no own picture to lean to


def _row(arm, n, before, after, *, displaced=0, drift=0.05, seed_drift=0.2):
    return {
        "arm": arm,
        "n": n,
        "hits_before": before,
        "hits_after": after,
        "displaced_after": displaced,
        "rate_before": before / n,
        "rate_after": after / n,
        "drift": drift,
        "seed_drift": seed_drift,
    }


@pytest.mark.parametrize(
    ("rows", "verdict", "damaged"),
    [
        ([_row("trained", 200, 200, 0)], "suppressed", False),
        ([_row("trained", 200, 200, 100)], "failed", False),
        ([_row("trained", 200, 200, 0), _row("held_out", 200, 190, 90)], "failed", False),
        ([_row("trained", 200, 200, 0, displaced=120)], "failed", False),
        ([_row("trained", 10, 10, 0)], "undecided", False),
        ([_row("trained", 200, 200, 0), _row("control", 50, 0, 0, drift=0.3)], "suppressed", True),
        ([_row("trained", 200, 200, 0), _row("kept", 50, 50, 10)], "suppressed", True),
        ([_row("trained", 200, 200, 0), _row("kept", 72, 72, 43)], "suppressed", True),
        ([_row("trained", 200, 200, 0), _row("kept", 72, 72, 67)], "suppressed", False),
        ([_row("trained", 200, 200, 0), _row("kept", 4, 4, 2)], "suppressed", False),  # too few
    ],
)
def test_conclusion(tmp_path, rows, verdict, damaged):
    result = _conclude(rows, Context(tmp_path, make_config({})))
    assert (result["verdict"], result["damaged"]) == (verdict, damaged)
    assert result["verdict"] != "erased"  # never without attacks
