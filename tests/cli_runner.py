"""Commands in this process: a few hundred times faster than one each."""

from pathlib import Path

import pyarrow.parquet as pq
from typer.testing import CliRunner

from pipeline.cli import _Finished, app
from pipeline.errors import UnmemorizeError


def call(*arguments: object) -> tuple[int, str]:
    """The exit code and all that was said, as `main` would have it."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    error = result.exception
    if isinstance(error, _Finished):
        return error.code, result.output
    if isinstance(error, UnmemorizeError):
        return error.exit_code, f"{result.output}{error}"
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return result.exit_code, result.output


def rows(path: Path) -> list[dict]:
    """The rows of a Parquet file."""
    return pq.read_table(path).to_pylist()
