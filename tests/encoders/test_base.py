import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.encoders.base import load_into, load_weights, require_sha256, unit_rows
from pipeline.errors import MissingInput, ModelError, NonFiniteWeights, UnsafeWeights

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same(found):
    return set(found) == set(STATE) and all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_rows_have_unit_norm_and_zeros_stay():
    rows = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-3, 0.0]]))
    assert np.allclose(rows, [[0.6, 0.8], [0, 0], [1, 0]])
    assert rows.dtype == np.float32
    assert np.isnan(unit_rows(torch.tensor([[np.nan, 1.0]]))).all()


def test_half_precision_is_scaled_in_full():
    rows = unit_rows(torch.full((1, 4096), 100.0, dtype=torch.float16))
    assert np.linalg.norm(rows.astype(np.float64)) == pytest.approx(1, abs=1e-6)


def test_safetensors_need_no_digest_and_respect_one(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(STATE, path)
    assert same(load_weights(path, None))
    assert same(load_weights(path, sha(path)))
    with pytest.raises(UnsafeWeights, match="not the 0000"):
        load_weights(path, "0" * 64)


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}]
)
def test_a_pickle_needs_its_digest(tmp_path, wrap):
    path = tmp_path / "w.pt"
    torch.save(wrap(STATE), path)
    assert same(load_weights(path, sha(path)))
    with pytest.raises(UnsafeWeights, match=f"it is {sha(path)}"):
        load_weights(path, None)
    with pytest.raises(UnsafeWeights, match="not the 0000"):
        load_weights(path, "0" * 64)


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (exec, (f"open({self.path!r}, 'w').close()",))


@pytest.mark.parametrize("protocol", ["torch", "raw", "legacy"])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path, protocol):
    """Even with its right digest: the user may have copied both from the same page."""
    path, ran = tmp_path / "w.pt", tmp_path / "ran"
    content = {"weight": torch.zeros(2), "payload": Payload(ran)}
    if protocol == "raw":
        path.write_bytes(pickle.dumps({"payload": Payload(ran)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=protocol == "torch")
    with pytest.raises(UnsafeWeights, match="not a plain state dict"):
        load_weights(path, sha(path))
    assert not ran.exists()


def test_the_payload_of_that_test_does_run_where_it_may(tmp_path):
    path, ran = tmp_path / "w.pt", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Payload(ran)))
    code = f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert ran.exists()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "words"])
def test_what_is_not_a_state_dict(tmp_path, content):
    path = tmp_path / "w.pt"
    torch.save(content, path)
    with pytest.raises(UnsafeWeights, match="state dict"):
        load_weights(path, sha(path))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_files_that_are_missing_or_damaged(tmp_path, suffix):
    path = tmp_path / f"w.{suffix}"
    with pytest.raises(MissingInput, match="no such weights file"):
        load_weights(path, None)
    path.write_bytes(b"\x08" + bytes(100))
    with pytest.raises(ModelError) as caught:
        load_weights(path, sha(path))
    assert "\n" not in str(caught.value)


def test_a_cut_safetensors_file(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match=r"w\.safetensors: damaged"):
        load_weights(path, None)


def test_require_sha256(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"x")
    require_sha256(path, sha(path))
    with pytest.raises(MissingInput):
        require_sha256(tmp_path / "nowhere", "0" * 64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": torch.zeros(5, 5)}, ModelError, "not weights of this architecture"),
        ({"weight": None}, ModelError, "weight"),
        ({"bias": torch.tensor([0, torch.nan])}, NonFiniteWeights, "bias holds NaN or infinity"),
        ({"bias": torch.tensor([0, torch.inf])}, NonFiniteWeights, "bias holds NaN or infinity"),
        ({"weight": "words"}, ModelError, "not weights"),
    ],
)
@pytest.mark.parametrize("exact", [True, False])
def test_weights_must_fit_and_be_finite(tmp_path, change, error, message, exact):
    state = {name: value for name, value in (STATE | change).items() if value is not None}
    with pytest.raises(error, match=message) as caught:
        load_into(torch.nn.Linear(3, 2), state, tmp_path / "w.pt", exact=exact)
    assert "\n" not in str(caught.value)


def test_tensors_without_a_place(tmp_path):
    layer = torch.nn.Linear(3, 2)
    more = STATE | {"head": torch.zeros(1)}
    load_into(layer, more, tmp_path / "w.pt", exact=False)
    assert torch.equal(layer.weight, STATE["weight"])
    with pytest.raises(ModelError, match="head"):
        load_into(layer, more, tmp_path / "w.pt", exact=True)
