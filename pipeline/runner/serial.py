"""Parts one after the other in this process."""

from collections.abc import Callable, Iterator, Sequence

from pipeline.errors import UnmemorizeError
from pipeline.runner.part import Context, Part, Stage
from pipeline.runner.work import Done, Failure, Result, failure, is_fatal, run_part


class SerialExecutor:
    """No workers, no time-out: a part that hangs hangs, one that kills the process ends it."""

    def run(
        self, stage: Stage, parts: Sequence[Part], context: Context, stopping: Callable[[], bool]
    ) -> Iterator[Result]:
        """Run `parts` in order; see Executor."""
        for part in parts:
            if stopping():
                return
            yield Result(part, _attempt(stage, part, context))


def _attempt(stage: Stage, part: Part, context: Context) -> Done | Failure:
    attempts = context.config.runner.attempts
    for number in range(1, attempts + 1):
        try:
            return run_part(stage, part, context)
        except Exception as error:
            if is_fatal(error):
                raise
            # what the input itself makes impossible stays so; anything else may pass
            if number == attempts or isinstance(error, UnmemorizeError):
                return failure(error, number)
    raise RuntimeError("attempts is at least 1")
