"""From the tables of attacks to rows of verification.parquet and to a verdict."""

import tarfile

import pytest

from pipeline.config import make_config
from pipeline.erasure.conclusion import Tally
from pipeline.errors import ConfigError, MissingInput, UsageError
from pipeline.followups import Attacked as Asked
from pipeline.followups import verify_settings
from pipeline.io import schemas
from pipeline.io.tables import write_rows
from pipeline.runner.part import Context
from pipeline.stages.attacked import Attacked
from pipeline.stages.unseen import Choice, read_unseen
from pipeline.stages.verify import _conclude

SHA = {"base": "b" * 64, "adv": "a" * 64, "oracle": "c" * 64}


def _attempts(method, arm, subject, hits, *, n=50, attack="embedding"):
    return {
        "method": method,
        "attack": attack,
        "arm": arm,
        "target_group": subject if arm == "target" else None,
        "subject": subject,
        "caption": f"caption {subject}",
        "n": n,
        "hits": hits,
        "nearest_tiled_l2": 0.1,
        "n_unet_forwards": 10,
        "model_sha256": SHA[method],
    }


def _context(run, rows, **verify):
    for number, row in enumerate(rows):
        write_rows(run / f"attacks/part-{number:03d}.parquet", [row], schemas.ATTACKS)
    return Context(run, make_config({"verify": verify}))


def _floor(method, hits):
    return [_attempts(method, "unseen", 90 + i, hits) for i in range(2)]


def _both(hits, *, floor=0):
    before = [_attempts("base", "target", g, 50) for g in (1, 2)]
    after = [_attempts("adv", "target", g, hits) for g in (1, 2)]
    return [*before, *after, *_floor("base", floor), *_floor("adv", floor)]


def _plain(after):
    row = {"n": 200, "hits_before": 200, "hits_after": after, "displaced_after": 0}
    return {**row, "arm": "trained", "drift": 0.1, "seed_drift": 0.2}


def _said(context, after=0):
    attacked = Attacked(context)
    evidence = attacked.evidence("adv", SHA["adv"])
    return _conclude([_plain(after)], context, evidence, oracle=attacked.oracle)


@pytest.mark.parametrize(
    ("rows", "plain", "verdict"),
    [
        (_both(0), 0, "erased"),
        (_both(20), 0, "suppressed"),
        (_both(20), 150, "failed"),
        (_both(0), 150, "failed"),
        (_both(4), 0, "undecided"),
        (_both(50, floor=50), 0, "suppressed"),  # an attack that writes the picture says nothing
    ],
)
def test_drawings_come_first_then_attacks(tmp_path, rows, plain, verdict):
    said = _said(_context(tmp_path, rows), plain)
    assert said["verdict"] == verdict
    assert said["attacks"] == ["embedding"]
    assert said["oracle"] is False


def test_held_out_captions_count_where_they_drew_before(tmp_path):
    context = _context(tmp_path, _both(0))
    evidence = Attacked(context).evidence("adv", SHA["adv"])
    idle = {**_plain(0), "arm": "held_out", "hits_before": 0, "hits_after": 190}
    drew = {**idle, "hits_before": 1}
    assert _conclude([_plain(0), idle], context, evidence)["verdict"] == "erased"
    assert _conclude([_plain(0), idle], context, evidence)["held_out_that_drew"] == 0
    assert _conclude([_plain(0), drew], context, evidence)["verdict"] == "failed"


def test_an_oracle_replaces_the_unseen_pictures(tmp_path):
    """Unseen pictures say that hits are the attack's own; the oracle says that they are not."""
    rows = [*_both(20, floor=20), *(_attempts("oracle", "target", g, 0) for g in (1, 2))]
    attacked = Attacked(_context(tmp_path, rows))
    (evidence,) = attacked.evidence("adv", SHA["adv"])
    assert attacked.oracle
    assert evidence.reference_before == evidence.reference_after == Tally(100, 0)
    assert _said(_context(tmp_path, rows))["verdict"] == "suppressed"


def test_rows_hold_both_sides_and_name_the_weights(tmp_path):
    rows = [*_both(20, floor=1), *(_attempts("oracle", "target", g, 3) for g in (1, 2))]
    found = Attacked(_context(tmp_path, rows)).rows("adv", SHA["adv"])
    assert len(found) == 6
    shown = {(r["arm"], r["hits_before"], r["hits_after"], r["model_sha256"]) for r in found}
    assert shown == {
        ("target", 50, 20, SHA["adv"]),
        ("unseen", 1, 1, SHA["adv"]),
        ("oracle", 50, 3, SHA["oracle"]),
    }
    assert {r["target_group"] for r in found} == {1, 2, None}
    for row in found:
        assert row["ci_low"] < row["rate_after"] < row["ci_high"]
    write_rows(tmp_path / "v.parquet", found, schemas.VERIFICATION)


def test_attempts_on_other_weights_of_the_same_name_are_not_this_models(tmp_path):
    assert Attacked(_context(tmp_path, _both(0))).evidence("adv", "d" * 64) == []


def test_two_attacks_of_one_name_are_a_mistake():
    with pytest.raises(ConfigError, match=r"called completion-0\.8"):
        make_config({"verify": {"attacks": [{"kind": "completion"}, {"kind": "completion"}]}})
    config = make_config(
        {"verify": {"attacks": [{"kind": "completion"}, {"kind": "completion", "start": 0.5}]}}
    )
    assert len(config.verify.attacks) == 2


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ({"kind": "telepathy"}, "telepathy"),
        ({"kind": "completion", "start": 1.5}, "start"),
        ({"kind": "completion", "iterations": 3}, "iterations"),
        ({"kind": "embedding", "learning_rate": 0}, "learning_rate"),
        ({"kind": "embedding", "name": "none"}, "none"),
    ],
)
def test_a_budget_that_is_none_is_one_line(attack, words):
    with pytest.raises(ConfigError, match=words):
        make_config({"verify": {"attacks": [attack]}})


def test_an_unknown_attack_on_the_command_line(tmp_path):
    with pytest.raises(UsageError, match="--attack telepathy: one of embedding"):
        verify_settings(tmp_path, "m", tmp_path, Asked(("telepathy",)))


def test_shards_without_a_captioned_picture_are_an_error(tmp_path):
    with tarfile.open(tmp_path / "00000.tar", "w"):
        pass
    context = Context(tmp_path, make_config({}))
    with pytest.raises(MissingInput, match="no picture with a caption"):
        read_unseen([tmp_path / "00000.tar"], context, None, 16, Choice(4, 0, 1))
