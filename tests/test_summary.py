from pathlib import Path

import pytest
from synthetic_run import COPIES, SyntheticRun

from pipeline.errors import MissingInput, UsageError
from pipeline.summary import failed_on, print_summary

HOSTILE = ["\x1b[31mred\x1b[0m\x07 [bold red]loud[/] [link=http://evil.example]x[/link] \u202eback"]


def summary(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    print_summary(run)
    return capsys.readouterr().out


def test_a_whole_run_in_a_few_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = SyntheticRun(tmp_path / "run").everything()
    text = summary(run.run, capsys)
    assert len(text.splitlines()) <= 25
    words = " ".join(text.split())
    assert "86 of 90 pictures in 4 groups, the largest of 64; 82 to drop" in words
    assert "verbatim, 64 copies, 4 of 4 drawings: “picture 7: thing7, scene7”" in words
    assert f"image {run.members[7][0]}" in words
    assert "suppressed, damaged" in words and "trained 100% → 25%" in words
    assert "2,120 of 2,143" in words and "2 of 3 memorized captions found" in words


def test_dedup_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = SyntheticRun(tmp_path / "run")
    run.dataset()
    words = summary(run.run, capsys).split()
    assert {"pictures", "duplicates"} <= set(words)
    assert "found" not in words and "report" not in words


def test_captions_cannot_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    captions = [f"{HOSTILE[0]} {i}" for i in range(len(COPIES))]
    text = summary(SyntheticRun(tmp_path / "run", captions).everything().run, capsys)
    assert not set("\x1b\x07\u202e") & set(text)
    assert "‹U+001B›[31mred" in text and "[bold red]loud[/]" in text


def test_gates(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "run").everything().run
    assert failed_on(run, "verbatim") == "2 captions verbatim"
    assert failed_on(run, "template") == ""
    assert failed_on(run, "template, damaged") == "esd-gt damaged"
    assert failed_on(run, "suppressed") == "esd-gt suppressed"
    assert failed_on(run, "failed,verbatim") == "esd-x failed"


def test_a_gate_that_cannot_be_judged_is_not_passed(tmp_path: Path) -> None:
    run = SyntheticRun(tmp_path / "run")
    run.dataset()
    with pytest.raises(MissingInput, match="nothing was judged"):
        failed_on(run.run, "verbatim")
    with pytest.raises(UsageError, match="one of verbatim, template, failed"):
        failed_on(run.run, "verbatim,\x1b[2J")
