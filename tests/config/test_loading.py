"""Reading a configuration: YAML that may be hostile, overrides, all mistakes at once."""

import time

import pytest
from pydantic import ValidationError
from refused_config import refused

from pipeline.config import RunConfig, load_config, make_config, read_yaml
from pipeline.errors import ConfigError, MissingInput


def yaml_refused(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=r"run\.yaml") as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


def test_nothing_is_a_configuration(tmp_path):
    (tmp_path / "run.yaml").write_text("# only a comment\n")
    assert load_config(tmp_path / "run.yaml") == RunConfig() == make_config({})


def test_values_of_a_file(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "seed: 3\ndataset: {name: cats, shards: [a.tar, b.tar]}\ngenerate:\n  guidance: 1e-1\n"
    )
    config = load_config(tmp_path / "run.yaml")
    assert (config.seed, config.dataset.shards) == (3, ("a.tar", "b.tar"))
    assert config.generate.guidance == 0.1


def test_all_mistakes_a_line_each():
    message = refused({"seed": -1, "generate": {"stepps": 3}, "runner": {"workers": "many"}})
    first, *lines = message.splitlines()
    assert first == "configuration: 3 mistakes"
    assert sorted(line.split(":")[0].strip() for line in lines) == [
        "generate.stepps",
        "runner.workers",
        "seed",
    ]


def test_a_misspelt_field_gets_a_suggestion():
    assert "generate.stepps: unknown field; did you mean steps?" in refused(
        {"generate": {"stepps": 3}}
    )
    assert "generat: unknown field; did you mean generate?" in refused({"generat": {}})
    assert refused({"xyzzy": 1}).endswith("xyzzy: unknown field")


def test_what_was_found_is_shown_and_cut():
    assert "(found 'many')" in refused({"runner": {"workers": "many"}})
    assert len(refused({"seed": "x" * 100_000})) < 500


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", ".inf"])
@pytest.mark.parametrize(
    ("section", "field"),
    [("verdict", "max_tiled_l2"), ("generate", "guidance"), ("runner", "min_free_gb")],
)
def test_numbers_are_finite(section, field, value):
    """A threshold of NaN would find nothing, in silence."""
    assert f"{section}.{field}" in refused({section: {field: value}})


def test_a_configuration_is_frozen():
    config = make_config({})
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.generate.steps = 1


# Overrides.


def test_overrides_win_and_leave_the_mapping_alone():
    values = {"generate": {"steps": 5}}
    config = make_config(values, ["generate.steps=7", "seed=2", "dataset.shards=[x.tar]"])
    assert (config.generate.steps, config.seed, config.dataset.shards) == (7, 2, ("x.tar",))
    assert values == {"generate": {"steps": 5}}


def test_an_override_makes_its_section():
    config = make_config({}, ["embed.encoders.hash.kind=pdq", "match.encoders=[hash]",
                              "pairs.min_similarity={}"])  # fmt: skip
    assert config.embed.encoders["hash"].kind == "pdq"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generate.steps", "write it as section.field=value"),
        ("=3", "write it as section.field=value"),
        ("seed.x=3", "seed is a value, not a section"),
        ("seed=[1", "not a YAML value"),
        ("seed=2020-99-99", "not a YAML value"),
        ("seed=!!python/object/apply:os.system [true]", "not a YAML value"),
        ("generate.stepps=3", "did you mean steps"),
        ("seed=minus", "seed"),
    ],
)
def test_overrides_that_are_wrong(override, message):
    assert message in refused({"seed": 1}, override)


# Files that are not what they should be.


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(MissingInput, match="configs ls"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(MissingInput):
        read_yaml(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "seed: [1",
        "seed: 2020-13-45",
        "seed: !!timestamp yesterday",
        "seed: 0b_",
        "a: 1\n---\nb: 2",
        "seed: \x01",
        b"seed: \xff\xfe",
        "{[1]: 2}: 3",
        "seed: " + "9" * 5000,
        "\t- x",
    ],
)
def test_what_is_not_yaml(tmp_path, text):
    assert "not YAML" in yaml_refused(tmp_path, text)


@pytest.mark.parametrize("text", ["just words", "- a\n- b", "3", "1: 2", "true: 2"])
def test_what_is_not_a_mapping(tmp_path, text):
    assert "a mapping of names to values" in yaml_refused(tmp_path, text)


def test_aliases_are_refused_before_they_expand(tmp_path):
    bomb = "a0: &a0 [x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    started = time.monotonic()
    assert "aliases are not read" in yaml_refused(tmp_path, bomb)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system", "!!python/name:os.system", "!!python/object/new:dict"],
)
def test_tags_that_build_objects_are_refused(tmp_path, tag):
    text = f"seed: {tag} ['touch {tmp_path}/ran']"
    assert "could not determine a constructor" in yaml_refused(tmp_path, text)
    assert not (tmp_path / "ran").exists()


def test_depth_and_size_have_limits(tmp_path):
    assert "not YAML" in yaml_refused(tmp_path, "[" * 600)
    assert "larger than" in yaml_refused(tmp_path, "#" * ((1 << 20) + 1))


def test_a_sound_file_with_a_wrong_field_names_the_file(tmp_path):
    assert yaml_refused(tmp_path, "sed: 1").splitlines() == [
        f"{tmp_path}/run.yaml: 1 mistake",
        "  sed: unknown field; did you mean seed?",
    ]
