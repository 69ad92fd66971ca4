"""What a person meets at the command line: one line for a mistake, the contract's exit codes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from shard_builder import ShardBuilder, jpeg, picture
from tiny_model import build_tiny_pipeline
from vector_builder import clip_retrieval, planted


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in result.stderr, result.stderr
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished dedup run."""
    root = tmp_path_factory.mktemp("cli")
    builder = ShardBuilder(root / "shards" / "00000.tar")
    for i in range(6):
        builder.add(f"p{i}", jpeg(picture(i)), f"picture {i}")
    builder.add("copy", jpeg(picture(2)), "picture 2").write()
    done = call("dedup", root / "shards", "--out", root / "run", "--set", "match.compare_px=32")
    assert done.returncode == 0, done.stderr
    assert "duplicates" in done.stdout
    return root


@pytest.mark.parametrize("encoder", ["lite0", "pdq"])
def test_shards_without_a_single_picture_are_done_with_code_2(tmp_path, encoder):
    builder = ShardBuilder(tmp_path / "00000.tar")
    builder.add("a", b"no picture", "one").add("b", b"nor this", "two").write()
    done = call("dedup", tmp_path, "--encoder", encoder, "--out", tmp_path / "run")
    assert done.returncode == 2, done.stderr
    assert "2 of 2 rows rejected" in " ".join(done.stdout.split())
    assert (tmp_path / "run/export/keep.parquet").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dedup", "/nowhere", "--out", "x"], "/nowhere: no .tar file there"),
        (["dedup", "pipe:rm -rf", "--out", "x"], "never read"),
        (["dedup", "ftp://host/0.tar", "--out", "x"], "not read from there"),
        (["dedup", "/tmp", "--out", "x", "--encoder", "clip"], "lite0-copy or pdq"),
        (
            ["dedup", "/tmp", "--out", "x", "--encoder", "lite0-copy"],
            "--whitening FILE go together",
        ),
        (["calibrate", "dedup", "/nowhere"], "/nowhere: no .tar file there"),
        (["dedup", "VECTORS", "--out", "x"], "no calibrated default"),
        (["dedup", "VECTORS", "--out", "x", "--encoder", "lite0"], "no picture is encoded"),
        (["dedup", "/nowhere", "--out", "x", "--encoder", "given"], "lite0-copy or pdq"),
        (["dedup", "VECTORS", "--threshold", "0.9", "--against", "/nowhere", "--out", "x"], "/no"),
        (["audit", "--out", "x"], "audit needs --model"),
        (["audit", "--model", "m", "--out", "x"], "--train RUN"),
        (["run", "/nowhere.yaml", "--out", "x"], "no such configuration"),
        (["configs", "cat", "nothing"], "not shipped; there are"),
        (["status", "/tmp"], "not the folder of a run"),
        (["match", "a.jpg", "--train", "/tmp"], "no duplicates.parquet"),
        (["erase", "--model", "m", "--findings", "/tmp", "--out", "x"], "no findings.parquet"),
        (["erase", "--model", "m", "--out", "x"], "erase needs --findings"),
        (
            ["erase", "--model", "m", "--concept", "a", "--findings", "/tmp", "--out", "x"],
            "erase needs --findings",
        ),
        (
            ["erase", "--model", "m", "--concept", "a", "--method", "siss", "--out", "x"],
            "siss needs --findings",
        ),
        (
            ["erase", "--model", "m", "--concept", "a", "--method", "esd-gt", "--out", "x"],
            "needs pictures",
        ),
        (["configs", "cp", "demo", "/nowhere/deep/x.yaml"], "/nowhere/deep/x.yaml: No such file"),
        (["run", "a" * 300, "--out", "x"], "File name too long"),
        (
            ["dedup", "/tmp", "--out", "x", "--set", "dataset.embeddings=["],
            "'[' is not a YAML value",
        ),
        (["dedup", "--bogus"], "No such option"),
        (["frobnicate"], "No such command"),
    ],
)
def test_a_mistake_is_one_line_and_code_1(tmp_path, arguments, says):
    places = {"x": tmp_path / "x", "VECTORS": clip_retrieval(tmp_path / "v", 0, planted(3))}
    result = call(*(places.get(a, a) for a in arguments))
    assert result.returncode == 1
    assert says in complaint(result)


def test_a_damaged_receipt_of_the_training_run_is_one_line(run, tmp_path):
    train = tmp_path / "train"
    shutil.copytree(run / "run", train)
    receipt = next((train / "receipts/groups").glob("*.json"))
    model = build_tiny_pipeline(tmp_path / "model")
    for damage in ("{", "[]"):
        receipt.write_text(damage)
        result = call("audit", "--model", model, "--train", train, "--out", tmp_path / "audit")
        assert result.returncode == 1
        assert f"{receipt.name}: not " in complaint(result)


def test_three_mistakes_in_a_config_are_three_lines(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("generate: {per_promt: 3, steps: -1}\nrunner: {workers: 0}\n")
    result = call("configs", "validate", path)
    assert result.returncode == 1
    text = complaint(result)
    assert "3 mistakes" in text and "did you mean per_prompt" in text


def test_shipped_configs_are_listed_printed_copied_and_valid(tmp_path):
    names = [line.split()[0] for line in call("configs", "ls").stdout.splitlines() if line]
    assert {"demo", "dedup-laion", "audit-stable-diffusion", "cluster"} <= set(names)
    target = tmp_path / "mine.yaml"
    assert call("configs", "cp", "demo", target).returncode == 0
    assert target.read_text() == call("configs", "cat", "demo").stdout
    assert call("configs", "cp", "demo", target).returncode == 1  # never over a file
    assert call("configs", "validate", target).returncode == 0


def test_vectors_are_recognised_compared_and_reported(tmp_path):
    vectors = planted(12, copies=3)
    clip_retrieval(tmp_path / "train", 0, vectors)
    clip_retrieval(tmp_path / "val", 0, vectors[5:6])
    options = ["--threshold", 0.9, "--against", tmp_path / "val", "--out", tmp_path / "run"]
    result = call("dedup", tmp_path / "train", *options)
    assert result.returncode == 0, result.stderr
    assert "12 accepted" in result.stdout and "contaminated 1 that" in " ".join(
        result.stdout.split()
    )
    assert "ingest" in call("status", tmp_path / "run").stdout
    assert call("report", tmp_path / "run").returncode == 0
    (tmp_path / "a.jpg").write_bytes(jpeg(picture(1)))
    refused = call("match", tmp_path / "a.jpg", "--train", tmp_path / "run")
    assert refused.returncode == 1 and "made from vectors" in complaint(refused)


def test_a_config_may_say_that_tars_are_not_meant(tmp_path):
    clip_retrieval(tmp_path / "both", 0, planted(4))
    ShardBuilder(tmp_path / "both/0.tar").add("a", jpeg(picture(1)), "a").write()
    options = ["--threshold", 0.9, "--set", "dataset.embeddings=true", "--out", tmp_path / "run"]
    result = call("dedup", tmp_path / "both", *options)
    assert result.returncode == 0 and "4 accepted" in result.stdout, result.stderr


def test_a_foreign_folder_is_not_touched(run, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    result = call("dedup", run / "shards", "--out", tmp_path)
    assert result.returncode == 1 and "not a run of ours" in complaint(result)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_match_tells_a_copy_from_a_stranger(run, tmp_path):
    for name, image in (("copy", picture(3)), ("stranger", picture(77))):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(image, 80))
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    files = [tmp_path / f"{name}.jpg" for name in ("copy", "stranger", "text", "missing")]
    result = call("match", *files, "--train", run / "run")
    lines = result.stdout.splitlines()
    assert "verbatim; nearest 00000/p3" in lines[0]
    assert "none; nearest" in lines[1]
    assert "rejected (not_an_image" in lines[2] and "no such file" in lines[3]


def test_status_and_failed(run):
    shown = call("status", run / "run").stdout
    assert "scan" in shown and "export" in shown
    assert "no part failed" in call("failed", run / "run").stdout


def test_more_rejected_than_allowed_is_code_2(tmp_path):
    builder = ShardBuilder(tmp_path / "shards" / "00000.tar")
    for i in range(4):
        builder.add(f"p{i}", jpeg(picture(i)), f"picture {i}")
    builder.add("bad", b"no picture", "bad").write()
    result = call("dedup", tmp_path / "shards", "--out", tmp_path / "run")
    assert result.returncode == 2
    assert "scan: more than 5% of the rows were rejected" in complaint(result)


def test_a_full_disk_is_code_3(run, tmp_path):
    result = call(
        "dedup", run / "shards", "--out", tmp_path / "run", "--set", "runner.min_free_gb=1e9"
    )
    assert result.returncode == 3 and "GB free" in complaint(result)


def _audit(run: Path, model: Path, out: Path, *more: object):
    sets = ["generate.per_prompt=2", "generate.steps=3", "screen.seeds=1", "prompts.controls=2"]
    sets += ["match.compare_px=16"]
    flags = [item for value in sets for item in ("--set", value)]
    return call("audit", "--model", model, "--train", run / "run", "--out", out, *flags, *more)


def test_audit_and_its_gate(run, tmp_path):
    model = build_tiny_pipeline(tmp_path / "model")
    result = _audit(run, model, tmp_path / "audit", "--fail-on", "verbatim,template")
    assert result.returncode == 0, result.stderr  # a random model reproduces nothing
    assert (tmp_path / "audit" / "report" / "index.html").is_file()
    loose = ["verdict.max_tiled_l2=1", "verdict.max_l2=1", "verdict.max_ratio=100"]
    flags = [item for value in loose for item in ("--set", value)]
    gated = _audit(run, model, tmp_path / "gated", "--fail-on", "verbatim,template", *flags)
    assert gated.returncode == 4 and "--fail-on" in complaint(gated)


def test_hostile_models_are_refused(run, tmp_path):
    pickled = build_tiny_pipeline(tmp_path / "pickled")
    weights = next((pickled / "unet").glob("*.safetensors"))
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    not_finite = build_tiny_pipeline(tmp_path / "nan")
    weights = next((not_finite / "unet").glob("*.safetensors"))
    tensors = load_file(weights)
    name = sorted(tensors)[0]
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    save_file(tensors, weights, metadata={"format": "pt"})
    coded = build_tiny_pipeline(tmp_path / "coded")
    (coded / "pipeline.py").write_text("raise SystemExit('executed')")
    for model, says in (
        (pickled, "only pickled weights"),
        (not_finite, "NaN or infinity"),
        (coded, "holds code"),
        (tmp_path / "nowhere", "no such model folder"),
    ):
        result = _audit(run, model, tmp_path / f"audit-{model.name}")
        assert result.returncode in (1, 3), result.stderr
        assert says in complaint(result), result.stderr
        assert "executed" not in result.stderr
