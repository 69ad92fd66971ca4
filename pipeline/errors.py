"""Every error a user can meet, as one tree.

    UnmemorizeError
    ├── UsageError              a command called with arguments that do not fit together
    ├── ConfigError             one or more mistakes in a configuration, all listed
    ├── InputError
    │   ├── MissingInput        a file, folder or earlier stage that is not there
    │   ├── ShardCorrupt        a tar, Parquet or npy file that is damaged, with the byte offset
    │   ├── ImageRejected       one picture that may not be used, with its reason code
    │   └── SchemaMismatch      a table without the columns it promises
    ├── ResumeError
    │   ├── FingerprintMismatch a receipt made under other settings, inputs or weights
    │   └── OutputExists        a folder that is not ours, or holds another run
    ├── ModelError
    │   ├── UnsafeWeights       pickled weights where only safetensors are read
    │   ├── RemoteCodeRefused   a model folder that would run code of its own
    │   └── NonFiniteWeights    weights that hold NaN or infinity
    ├── ResourceError
    │   ├── DiskFull            no room for an output; nothing was left half written
    │   └── ResourceUnavailable no worker offers what a part needs
    └── PartFailed              a part that failed in every attempt

Each message is one line: what, where, expected against found, and the mend. A class carries the
exit code of the command that it ends.
"""


def first_line(error: BaseException) -> str:
    """What a library's error says, on one line; its class where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


class UnmemorizeError(Exception):
    """Base of every error that is the input's or the machine's, never a defect of ours."""

    exit_code = 1


class UsageError(UnmemorizeError):
    """A command called with arguments that do not fit together."""


class ConfigError(UnmemorizeError):
    """One or more mistakes in a configuration, a line each."""


class InputError(UnmemorizeError):
    """Something that was given to us cannot be used."""


class MissingInput(InputError):
    """A file, folder or earlier stage that is not there."""


class ShardCorrupt(InputError):
    """A tar, Parquet or npy file that is damaged; the message names the byte offset."""


class ImageRejected(InputError):
    """One picture that may not be used.

    `reason` is the code that goes to the table, `str(error)` the detail.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class SchemaMismatch(InputError):
    """A table without the columns that it promises."""


class ResumeError(UnmemorizeError):
    """An existing run folder cannot be continued as asked."""


class FingerprintMismatch(ResumeError):
    """A receipt made under other settings, inputs or weights; the message names the field."""


class OutputExists(ResumeError):
    """A folder that is not ours, or that holds another run."""


class ModelError(UnmemorizeError):
    """A model that cannot or must not be loaded."""


class UnsafeWeights(ModelError):
    """Pickled weights where only safetensors are read."""


class RemoteCodeRefused(ModelError):
    """A model folder that would run code of its own."""


class NonFiniteWeights(ModelError):
    """Weights that hold NaN or infinity."""


class ResourceError(UnmemorizeError):
    """The machine lacks something; what is done stays done."""

    exit_code = 3


class DiskFull(ResourceError):
    """No room for an output; nothing was left half written."""


class ResourceUnavailable(ResourceError):
    """No worker offers what a part needs."""


class PartFailed(UnmemorizeError):
    """A part that failed in every attempt; run again to try it once more."""

    exit_code = 3
