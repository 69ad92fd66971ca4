"""Receipts: read back as they were written, and what they say changed."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_stages import COUNT

from pipeline.errors import FingerprintMismatch
from pipeline.runner.part import Outcome, Part, relative
from pipeline.runner.receipt import (
    Receipt,
    changed_fields,
    make_receipt,
    read_receipt,
    read_receipts,
    receipt_path,
    require_rebuildable,
    write_receipt,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | texts
numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    scalars | numbers, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=9
)


@settings(deadline=None, max_examples=60)
@given(
    fields=st.dictionaries(texts, json_values),
    outputs=st.dictionaries(texts, texts),
    rejected=st.dictionaries(texts, st.integers(0, 9)),
    notes=st.lists(texts),
)
def test_a_receipt_reads_back_as_it_was_written(tmp_path_factory, fields, outputs, rejected, notes):
    run = tmp_path_factory.mktemp("run")
    lost = sum(rejected.values())
    outcome = Outcome(tuple(outputs), lost + 2, 2, rejected, tuple(notes))
    receipt = make_receipt(COUNT, Part("x"), fields, outcome, outputs)
    write_receipt(run, receipt)
    assert read_receipt(receipt_path(run, "count", "x")) == receipt


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_reading_fail(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_bytes(data)
        assert read_receipt(path) is None


def test_a_receipt_removes_the_record_of_the_failure_and_lists_by_name(tmp_path):
    for name in ("b", "a.tar", "a"):
        receipt = Receipt("count", name, "0", {}, {}, 0, 0, {}, ())
        failed = receipt_path(tmp_path, "count", name).with_suffix(".failed.json")
        failed.parent.mkdir(parents=True, exist_ok=True)
        failed.write_text("{}")
        write_receipt(tmp_path, receipt)
        assert not failed.exists()
    (tmp_path / "receipts" / "count" / "c.failed.json").write_text("{}")
    assert [r.part for r in read_receipts(tmp_path, "count")] == ["a", "a.tar", "b"]


def test_changed_fields_are_named_to_the_leaf():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": "x"}
    new = {"a": {"b": 2, "c": [1, 2]}, "e": None, "d": "x" * 60}
    changes = changed_fields(old, new)
    assert changes[0] == "a.b was 1, now 2"
    assert changes[1].startswith('d was "x", now "xxxxx')
    assert len(changes[1]) < 80
    assert len(changes) == 2  # a field that is new and null is no change


def test_only_own_inputs_may_change_unasked():
    def receipt(inputs):
        return Receipt("count", "x", "0", {"inputs": inputs}, {}, 0, 0, {}, ())

    own = receipt({"counts/a.json": "1", "/data/a.txt": "1"})
    why = require_rebuildable("s", "p", own, {"inputs": {"/data/a.txt": "1", "counts/a.json": "2"}})
    assert why == 'inputs.counts/a.json was "1", now "2"'
    with pytest.raises(FingerprintMismatch, match=r'inputs\./data/a\.txt was "1", now null'):
        require_rebuildable("s", "p", own, {"inputs": {"counts/a.json": "2"}})


def test_inputs_are_named_relative_to_the_run_where_they_are_its_own(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "outside").mkdir()
    (run / "link").symlink_to(tmp_path / "outside")
    assert relative(run / "a" / ".." / "b", run) == "b"
    assert relative(run / ".." / "outside", run) == str((tmp_path / "outside").resolve())
    assert relative(run / "link" / "x", run) == str((tmp_path / "outside" / "x").resolve())
