"""A stage that joins the parts of another into one table."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from pipeline.io.tables import read_parts, write_table
from pipeline.runner.part import Context, Outcome, Part, Stage


@dataclass(frozen=True)
class _Merge:
    pattern: str
    output: str
    schema: pa.Schema

    def plan(self, context: Context) -> list[Part]:
        paths = sorted(context.run.glob(self.pattern))
        return [Part("all", tuple(p.relative_to(context.run).as_posix() for p in paths))]

    def run(self, part: Part, context: Context) -> Outcome:
        table = read_parts([context.path(name) for name in part.inputs], self.schema)
        rows = write_table(context.path(self.output), table)
        return Outcome((self.output,), rows, rows)


def merge_stage(name: str, pattern: str, output: str, schema: pa.Schema) -> Stage:
    """A stage of one part that writes `output` from the sorted files of `pattern`."""
    merge = _Merge(pattern, output, schema)
    plan: Callable[[Context], list[Part]] = merge.plan
    return Stage(name, 1, (), plan, merge.run)
