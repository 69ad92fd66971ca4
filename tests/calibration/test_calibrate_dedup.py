"""calibrate dedup on shards of drawings, and a dedup run with what it wrote."""

import json

import pyarrow.parquet as pq
import pytest
from sample_pictures import picture
from shard_builder import ShardBuilder, jpeg

from pipeline.calibration.dedup import COPY, Plan, calibrate_dedup, parse_same
from pipeline.calibration.edits import EDITS
from pipeline.calibration.record import Calibration, read_calibration
from pipeline.config import make_config
from pipeline.encoders import build_encoder
from pipeline.errors import ConfigError, MissingInput, UsageError
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.progress import SilentProgress

UP_TO_PAIRS = DEDUP[: [stage.name for stage in DEDUP].index("pairs") + 1]
N = 64


def _config(shards, **sections):
    return make_config({"dataset": {"shards": [str(shards)]}, **sections})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """64 drawings in two shards, two copies of the first, a broken picture."""
    root = tmp_path_factory.mktemp("calibrate")
    for number in range(2):
        builder = ShardBuilder(root / "shards" / f"0000{number}.tar")
        for i in range(number * N // 2, (number + 1) * N // 2):
            builder.add(f"p{i}", jpeg(picture(i, 128, 96)), f"picture {i}")
        if number:
            builder.add("copy", jpeg(picture(0, 128, 96)), "the same bytes")
            builder.add("again", jpeg(picture(0, 128, 96), 60), "encoded again")
            builder.add("bad", b"\xff\xd8\xffno picture", "bad")
        builder.write()
    return root


@pytest.fixture(scope="module")
def calibrated(root):
    found = calibrate_dedup(_config(root / "shards"), Plan(precision=0.99, edited=12))
    found.save(root / "calibration.json")
    return found


def test_the_encoders_that_are_joined_are_measured_by_fingerprint(calibrated):
    assert sorted(entry.name for entry in calibrated.encoders.values()) == ["lite0", "pdq"]
    for fingerprint, entry in calibrated.encoders.items():
        assert fingerprint.startswith(entry.name)
        assert entry.precision is not None and entry.precision >= 0.99
        assert list(entry.recall) == list(EDITS)
        assert all(rate.n == calibrated.edited == 12 for rate in entry.recall.values())
        assert entry.recall["exact"].hits == 12
        assert entry.recall["overlay"].hits < 12
        assert entry.false_rate_upper is not None and entry.false_rate_upper > 0
    by_name = {entry.name: entry for entry in calibrated.encoders.values()}
    assert by_name["lite0"].max_distance is None
    assert by_name["pdq"].min_similarity == 1 - by_name["pdq"].max_distance / 256


def test_hashes_are_measured_as_they_are_joined(root, calibrated):
    """Mirrored and without borders, where the configuration says so."""
    plain = _config(
        root / "shards",
        embed={"encoders": {"pdq": {"kind": "pdq"}}},
        pairs={"min_similarity": {}, "pdq_variants": []},
        match={"encoders": []},
    )
    alone = calibrate_dedup(plain, Plan(precision=0.99, edited=12))
    (without,) = alone.encoders.values()
    (entry,) = (entry for entry in calibrated.encoders.values() if entry.name == "pdq")
    for edit in ("hflip", "pad"):
        assert entry.recall[edit].hits >= 9
        assert without.recall[edit].hits <= 2
    assert entry.recall["exact"].hits == without.recall["exact"].hits == 12


def test_copies_and_broken_pictures_are_left_out_and_counted(calibrated):
    assert calibrated.left_out["copy"] == 2
    assert sum(calibrated.left_out.values()) == 3
    assert calibrated.originals == N - 12  # as many again are backgrounds


def test_pictures_called_the_same_are_left_out(root, calibrated):
    """The second of a pair goes; a pair that is not in the sample changes nothing."""
    same = parse_same(["00000/p3,00001/p40", "00000/p3,00000/nowhere"])
    found = calibrate_dedup(
        _config(root / "shards", pairs={"min_similarity": {}}),
        Plan(precision=0.99, edited=12, same=same),
    )
    assert found.left_out["same"] == 1
    assert found.originals == calibrated.originals - 1


@pytest.mark.parametrize("text", ["", "a", "a,", ",b", "a,b,c", "a,a"])
def test_same_wants_two_pictures(text):
    with pytest.raises(UsageError, match="--same"):
        parse_same([text])


def test_the_same_bytes_again_and_the_same_when_read(root, calibrated, tmp_path):
    again = calibrate_dedup(_config(root / "shards"), Plan(precision=0.99, edited=12))
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (root / "calibration.json").read_bytes()
    assert read_calibration(root / "calibration.json") == calibrated


def test_a_higher_precision_is_no_less_strict(root, calibrated):
    strict = calibrate_dedup(_config(root / "shards"), Plan(precision=1.0, edited=12))
    for fingerprint, entry in calibrated.encoders.items():
        assert strict.encoders[fingerprint].min_similarity >= entry.min_similarity
        assert strict.encoders[fingerprint].false_pairs == 0


def _dedup(root, out, calibration, **pairs):
    config = _config(root / "shards", pairs={"calibration": str(calibration), **pairs})
    return run_job(Job(config, out, UP_TO_PAIRS), SilentProgress())


def test_a_run_joins_at_the_calibrated_thresholds(root, calibrated, tmp_path):
    """The file decides, not pairs.min_similarity: at 0.999 nothing, at -0.9 everything is near."""
    pairs = {}
    for name, value, bits in (("strict", 0.9999, 0), ("loose", -0.9, 256)):
        entries = {
            key: entry.model_copy(
                update={"min_similarity": value}
                if entry.name == "lite0"
                else {"min_similarity": 1 - bits / 256, "max_distance": bits}
            )
            for key, entry in calibrated.encoders.items()
        }
        changed = calibrated.model_copy(update={"encoders": entries})
        changed.save(tmp_path / f"{name}.json")
        summary = _dedup(root, tmp_path / name, tmp_path / f"{name}.json")
        assert not summary.failed
        for encoder in ("lite0", "pdq"):
            table = pq.read_table(tmp_path / name / "pairs" / encoder / "part-00000.parquet")
            pairs[name, encoder] = table.num_rows
    centres = N + 1  # the drawings and the one encoded again
    assert pairs["loose", "lite0"] == centres * (centres - 1) // 2
    assert pairs["strict", "lite0"] == 0
    assert pairs["loose", "pdq"] > pairs["strict", "pdq"]


def test_an_encoder_that_was_not_calibrated_is_one_clear_line(root, calibrated, tmp_path):
    sizes = {
        "embed": {"encoders": {"lite0": {"kind": "lite0", "size": 192}, "pdq": {"kind": "pdq"}}}
    }
    config = _config(
        root / "shards",
        pairs={"calibration": str(root / "calibration.json")},
        match={"encoders": ["lite0"]},
        **sizes,
    )
    with pytest.raises(ConfigError, match="encoder lite0 was not calibrated") as refused:
        run_job(Job(config, tmp_path / "run", UP_TO_PAIRS), SilentProgress())
    assert "\n" not in str(refused.value)


def test_an_encoder_without_a_threshold_is_one_clear_line(calibrated, tmp_path):
    fingerprint, entry = next(iter(calibrated.encoders.items()))
    none = calibrated.model_copy(
        update={"encoders": {fingerprint: entry.model_copy(update={"min_similarity": None})}}
    )
    with pytest.raises(ConfigError, match="has no threshold of precision"):
        none.threshold(entry.name, fingerprint, source=tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"version": 2}', '{"encoders": {"a": {"min_similarity": 7}}}', "\xff"],
)
def test_hostile_calibrations_are_one_line(tmp_path, text):
    path = tmp_path / "calibration.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as refused:
        read_calibration(path)
    assert "\n" not in str(refused.value)


def test_nan_and_missing_files(calibrated, tmp_path):
    text = json.dumps(calibrated.model_dump(mode="json")).replace("0.99", "NaN")
    (tmp_path / "nan.json").write_text(text)
    with pytest.raises(ConfigError):
        read_calibration(tmp_path / "nan.json")
    with pytest.raises(MissingInput, match="calibrate dedup"):
        read_calibration(tmp_path / "nowhere.json")


def test_too_few_pictures_and_senseless_precision(tmp_path):
    builder = ShardBuilder(tmp_path / "00000.tar")
    for i in range(5):
        builder.add(f"p{i}", jpeg(picture(i)), "few")
    builder.write()
    with pytest.raises(UsageError, match="5 usable pictures"):
        calibrate_dedup(_config(tmp_path), Plan())
    with pytest.raises(UsageError, match="--precision"):
        calibrate_dedup(_config(tmp_path), Plan(precision=1.5))
    with pytest.raises(UsageError, match="safetensors"):
        calibrate_dedup(_config(tmp_path), Plan(whitening=tmp_path / "w.bin"))


@pytest.mark.slow
def test_a_whitening_is_fitted_on_other_pictures_than_it_is_measured_on(tmp_path):
    builder = ShardBuilder(tmp_path / "shards" / "00000.tar")
    for i in range(100):
        builder.add(f"p{i}", jpeg(picture(i, 128, 96)), f"picture {i}")
    builder.write()
    plan = Plan(precision=0.99, edited=6, whitening=tmp_path / "copy.safetensors")
    found = calibrate_dedup(_config(tmp_path / "shards"), plan)
    assert isinstance(found, Calibration) and found.originals == 100 // 2 - 6
    entry = next(entry for entry in found.encoders.values() if entry.name == COPY)
    values = {"kind": "lite0-copy", "weights": str(plan.whitening)}
    config = make_config(
        {
            "embed": {"encoders": {COPY: values}},
            "pairs": {"min_similarity": {COPY: 1.0}},
            "match": {"encoders": [COPY]},
        }
    )
    fingerprint = build_encoder(config.embed.encoders[COPY]).fingerprint
    assert found.encoders[fingerprint] == entry
    assert entry.mean_recall is not None and entry.mean_recall > 0.5
