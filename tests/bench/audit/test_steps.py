"""Work that is done is not done again; killed work leaves nothing."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.bench.audit.steps import made_from, once, run_all


def test_equal_facts_are_built_once_and_others_anew(tmp_path):
    built = []

    def build(out):
        built.append(out)
        (out / "x").write_text("x")

    folder = tmp_path / "a" / "b"
    assert once(folder, {"n": (1, 2)}, build)
    assert not once(folder, {"n": [1, 2]}, build)
    assert once(folder, {"n": [1, 3]}, build)
    assert len(built) == 2 and made_from(folder) == {"n": [1, 3]}


def test_a_build_that_fails_leaves_no_folder(tmp_path):
    def build(out):
        (out / "x").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "a", {}, build)
    assert not (tmp_path / "a").exists() and made_from(tmp_path / "a") is None
    assert once(tmp_path / "a", {}, lambda out: None)


def test_tasks_wait_for_what_they_need_and_an_error_ends_all():
    order = []

    def fail():
        raise ValueError("no")

    tasks = {name: (order.append, (name,)) for name in "abc"}
    with ThreadPoolExecutor(2) as pool:
        run_all(tasks, {"a": {"b"}, "b": {"c"}}, pool)
        assert order == ["c", "b", "a"]
        with pytest.raises(ValueError, match="no"):
            run_all({"a": (fail, ()), "b": (order.append, ("late",))}, {"b": {"a"}}, pool)
    assert order == ["c", "b", "a"]
