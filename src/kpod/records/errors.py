"""What can go wrong, as a tree.

KpodError
 |- ConfigError      a recipe or a command line is wrong (exit code 2)
 |- DataError        an input file or a record in it is wrong (exit code 2)
 |- TeacherError     a teacher cannot be asked, or left requests unanswered
 |- ScheduleError    no schedule can be made from these difficulties
 |- WeightingError   mask learning failed: no answer tokens, or the weights collapsed
 |- TrainingError    the student's training failed: NaN loss, a torn checkpoint
     |- TrainingInterruptedError  a signal ended it; the same command goes on (exit code 128 + signal)

Every message names the culprit (file and line, id, or recipe key) and what to do about it.
"""


class KpodError(Exception):
    """Any failure that a user can act on."""


class ConfigError(KpodError):
    """A recipe key or a command-line argument is wrong."""


class DataError(KpodError):
    """An input file, or one record of it, is wrong."""


class TeacherError(KpodError):
    """A teacher cannot be asked, or left requests unanswered; what it has answered is kept."""


class ScheduleError(KpodError):
    """The progressive schedule cannot be made."""


class WeightingError(KpodError):
    """The significance weights cannot be learnt, or collapsed."""


class TrainingError(KpodError):
    """The student cannot be trained further."""


class TrainingInterruptedError(TrainingError):
    """A signal ended the training, after a checkpoint.

    Attributes:
        signal: Its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal

    def __reduce__(self) -> tuple[object, ...]:
        """Its parts, so that it can come from another process."""
        return type(self), (str(self), self.signal)


def require(condition: bool, key: str, value: object, wanted: str) -> None:
    """Raise ConfigError naming the recipe key unless the condition holds."""
    if not condition:
        raise ConfigError(f"{key} is {value!r}; it must be {wanted}")
