"""What is said of a run before and after it."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from shard_builder import ShardBuilder, jpeg, picture
from vector_builder import clip_retrieval, planted

from pipeline.config import load_config
from pipeline.cost import Job, cost
from pipeline.inspect_run import failures, plan_table
from pipeline.shipped import config_path


def printed(table: object) -> str:
    text = io.StringIO()
    Console(width=200, file=text).print(table)
    return " ".join(text.getvalue().split())


def test_the_plan_of_the_demo_counts_what_it_will_plant() -> None:
    config = load_config(config_path("demo"), ["demo.copies=[1, 3]", "demo.pictures_per_level=5"])
    base = load_config(config_path("demo"), ["demo.copies=[1]"])

    def rows(text: str) -> int:
        return int(text.split("rows │ ")[1].split(maxsplit=1)[0].replace(",", ""))

    assert rows(printed(plan_table(config))) == rows(printed(plan_table(base))) + 5 * 2


def test_the_plan_of_shards_counts_their_rows(tmp_path: Path) -> None:
    builder = ShardBuilder(tmp_path / "shards" / "00000.tar")
    for i in range(3):
        builder.add(f"p{i}", jpeg(picture(i)), f"picture {i}")
    builder.write()
    config = load_config(config_path("dedup-laion"), [f"dataset.shards=[{tmp_path / 'shards'}]"])
    text = printed(plan_table(config))
    assert "rows │ 3 │" in text
    assert "shards │ 1, " in text


def test_the_plan_of_an_audit_has_no_rows_of_its_own() -> None:
    assert "rows │" not in printed(plan_table(load_config(config_path("audit-stable-diffusion"))))


def test_the_plan_of_vectors_counts_their_rows(tmp_path: Path) -> None:
    clip_retrieval(tmp_path / "clip", 0, planted(7))
    config = load_config(config_path("dedup-embeddings"), [f"dataset.shards=[{tmp_path / 'clip'}]"])
    assert "rows │ 7 │" in printed(plan_table(config))


def test_the_plan_of_a_large_set_says_what_its_join_takes(tmp_path: Path) -> None:
    """By the same formulas as the benchmark's."""
    clip_retrieval(tmp_path / "clip", 0, planted(400))
    shards = f"dataset.shards=[{tmp_path / 'clip'}]"
    plain = printed(plan_table(load_config(config_path("dedup-embeddings"), [shards])))
    assert "cells" not in plain and "hours of one core like ours, roughly │ pairs" in plain
    small = load_config(config_path("dedup-embeddings"), [shards, "pairs.exact_up_to=10"])
    text = printed(plan_table(small))
    expected = cost(Job(400, d=1024, exact_up_to=10))
    assert f"│ {expected.cells}, {expected.disk['cells'] / 1e6:.1f} MB, " in text


def test_failed_parts_of_an_evaluation_set_are_shown(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    for folder, stage in ((tmp_path, "embed"), (tmp_path / "against/00000", "scan")):
        path = folder / "receipts" / stage / "00003.failed.json"
        path.parent.mkdir(parents=True)
        path.write_text('{"error": "damaged", "attempts": 2, "log": "where"}')
    lines = [line for line in failures(tmp_path) if line.endswith("damaged")]
    assert lines == ["embed/00003: damaged", "against/00000/scan/00003: damaged"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"error": "x"}', "\xff", "[" * 100_000])
def test_a_damaged_record_of_a_failure_is_one_line_and_hides_no_other(tmp_path: Path, text: str):
    (tmp_path / "run.json").write_text("{}")
    folder = tmp_path / "receipts/scan"
    folder.mkdir(parents=True)
    (folder / "00000.failed.json").write_bytes(text.encode("latin-1"))
    (folder / "00001.failed.json").write_text(
        '{"error": "\\u001b[31mred", "attempts": 1, "log": ""}'
    )
    first, *others = failures(tmp_path)
    assert first.startswith("scan/00000: failed, but ") and "damaged" in first
    assert others == ["scan/00001: \N{REPLACEMENT CHARACTER}[31mred", "  after 1 attempts"]
