"""audit: prompt lists, trials and budgets, from the command line."""

import json
from pathlib import Path

import pytest
from cli_runner import call, rows
from shard_builder import ShardBuilder, jpeg, picture
from tiny_model import build_tiny_pipeline

SETS = ["generate.per_prompt=2", "generate.steps=3", "screen.seeds=1", "prompts.controls=2"]
SETS += ["match.compare_px=16"]
FLAGS = [item for value in SETS for item in ("--set", value)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    builder = ShardBuilder(root / "shards/00000.tar")
    for number in range(8):
        builder.add(f"p{number}", jpeg(picture(number)), f"picture {number}")
    builder.add("copy", jpeg(picture(2)), "picture 2").write()
    code, said = call("dedup", root / "shards", "--out", root / "run")
    assert code == 0, said
    build_tiny_pipeline(root / "model")
    return root


def audit(root: Path, out: Path, *more: object, train: bool = True) -> tuple[int, str]:
    given = ["--train", root / "run"] if train else []
    return call("audit", "--model", root / "model", *given, "--out", out, *FLAGS, *more)


def captions(out: Path) -> list[str]:
    return [row["caption"] for row in rows(out / "prompts.parquet")]


def test_hostile_rows_of_a_list_are_counted_and_the_rest_is_audited(root, tmp_path):
    lines = [{"Caption": "picture 2"}, {"Caption": ""}, {"Caption": "picture 2"}]
    lines += [{"Caption": "\x1b[31mred <script>alert(1)</script>"}, {"Caption": "x" * 9999}]
    lines += [{"Caption": {"a": 1}}, {"Caption": "\ud800"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, said = audit(root, tmp_path / "run", "--prompts", tmp_path / "a.jsonl")
    assert code == 2, said  # half of the rows
    assert "\x1b[31m" not in said
    assert captions(tmp_path / "run") == ["picture 2", "\x1b[31mred <script>alert(1)</script>"]
    rejected = rows(tmp_path / "run/prompts_rejected.parquet")
    assert [(row["row"], row["reason"]) for row in rejected] == [
        (2, "empty"),
        (3, "repeated_caption"),
        (5, "too_long"),
        (6, "not_text"),
        (7, "not_text"),
    ]
    _, shown = call("status", tmp_path / "run")
    assert "1 empty" in " ".join(shown.split()) and "2 not_text" in " ".join(shown.split())
    page = (tmp_path / "run/report/index.html").read_text()
    assert "<script>" not in page
    assert len(rows(tmp_path / "run/findings.parquet")) == 2


def test_repeated_captions_alone_are_no_reason_to_complain(root, tmp_path):
    (tmp_path / "a.txt").write_text("one\none\none\n")
    assert audit(root, tmp_path / "run", "--prompts", tmp_path / "a.txt")[0] == 0


def test_captions_of_shards_and_a_sample_of_them(root, tmp_path):
    out = tmp_path / "run"
    code, said = audit(root, out, "--prompts", root / "shards/00000.tar", "--limit", 3)
    assert code == 0, said
    assert len(captions(out)) == 3
    assert rows(out / "prompts_rejected.parquet")[0]["reason"] == "repeated_caption"
    chosen = []
    for name, more in (("a", ["--prompts", root / "shards"]), ("b", [])):
        assert audit(root, tmp_path / name, *more, "--set", "prompts.sample=3")[0] == 0
        chosen.append(captions(tmp_path / name))
    assert len(chosen[0]) == 3 and chosen[0] == chosen[1]  # by hash, wherever they come from
    seeds = ["--set", "prompts.sample=3", "--set", "seed=5"]
    assert audit(root, tmp_path / "c", *seeds)[0] == 0
    assert captions(tmp_path / "c") != chosen[0]


def test_limit_audits_the_first_captions(root, tmp_path):
    assert audit(root, tmp_path / "run", "--limit", 1)[0] == 0
    assert captions(tmp_path / "run") == ["picture 2"]
    assert len(rows(tmp_path / "run/verdicts.parquet")) == 2


def test_without_a_training_run_nothing_is_matched_and_the_rest_runs(root, tmp_path):
    (tmp_path / "a.txt").write_text("a thing\nanother\n")
    code, said = audit(root, tmp_path / "run", "--prompts", tmp_path / "a.txt", train=False)
    assert code == 0, said
    assert said.count("without --train nothing is matched") == 1
    found = rows(tmp_path / "run/findings.parquet")
    assert len(found) == 2 and all(row["noise_gap"] is not None for row in found)
    assert {row["verdict"] for row in found} <= {"undecided", "none"}
    assert rows(tmp_path / "run/matches.parquet") == []
    page = (tmp_path / "run/report/index.html").read_text()
    assert "No training picture was drawn" not in page
    assert "compared with the training pictures" not in page


def test_out_of_time_is_code_3_and_the_same_command_goes_on(root, tmp_path):
    out = tmp_path / "run"
    code, said = audit(root, out, "--max-minutes", 0)
    assert code == 3 and "--max-minutes have passed" in said
    assert not (out / "prompts.parquet").exists()
    code, said = audit(root, out)
    assert code == 0, said
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    code, said = audit(root, out, "--max-minutes", 0)  # nothing is left to do
    assert code == 0, said
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}


def test_a_run_that_is_none_is_refused(root, tmp_path):
    given = ["--model", root / "model", "--train", root / "shards", "--out", tmp_path / "run"]
    code, said = call("audit", *given)
    assert code == 1 and "no duplicates.parquet; give the --out of `dedup`" in said


def test_redaction_reaches_page_card_summary_and_terminal(root, tmp_path):
    flags = ["verdict.max_tiled_l2=1", "verdict.max_l2=1", "verdict.max_ratio=100"]
    more = [item for value in flags for item in ("--set", value)]
    code, said = audit(root, tmp_path / "run", "--redact", *more)
    assert code == 0 and "picture 2" not in said and "sha256:" in said
    for name in ("index.html", "AUDIT_CARD.md", "summary.json"):
        assert "picture 2" not in (tmp_path / "run/report" / name).read_text(), name
    assert 'class="blurred"' in (tmp_path / "run/report/index.html").read_text()
