"""The package as a notebook sees it."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np

import indexes

FOLDER = Path(indexes.__file__).parent


def test_three_lines(clusters):
    vectors, ids = clusters(100, 16), np.arange(100)
    index = indexes.build(vectors, ids, metric="cosine")
    similarity, neighbour = index.search(vectors, 2)
    pairs = indexes.self_join(vectors, ids, threshold=0.6)
    assert (neighbour[:, 0] == ids).all()
    assert (similarity[:, 0] == 1).all()
    assert len(pairs) > 0


def test_all_names_are_there():
    assert indexes.__all__ == sorted(indexes.__all__)
    for name in indexes.__all__:
        assert hasattr(indexes, name)


def test_it_imports_nothing_of_the_pipeline():
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            roots = {name.split(".")[0] for name in names}
            allowed = {"torch"} if file.name == "device.py" else set()  # only when asked for
            assert not roots & {"pipeline", "torch", "PIL", "dask"} - allowed, file
    code = "import sys, indexes; sys.exit(bool({'pipeline', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, check=True)
