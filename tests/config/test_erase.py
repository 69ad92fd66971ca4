"""Erasers that a configuration may name."""

from refused_config import refused


def test_methods_have_distinct_plain_names():
    esd = {"name": "esd", "objective": "esd"}
    assert "the same name" in refused({"erase": {"methods": [esd, esd]}})
    assert "erase.methods.0.name" in refused({"erase": {"methods": [esd | {"name": "../x"}]}})


def test_options_are_those_of_the_objective():
    method = {"name": "mine", "objective": "esd", "uce": {}}
    assert "uce: options of another objective than esd" in refused({"erase": {"methods": [method]}})
