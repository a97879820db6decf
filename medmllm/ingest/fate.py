"""What became of a file."""

from typing import NamedTuple

from medmllm.ingest.walk import FileProblem, Severity


class Fate(NamedTuple):
    """What became of a file; a tuple, since each crosses from a worker process and into the store."""

    status: Severity | str  # used, ignored, warning or refused
    code: str | None = None
    reason: str | None = None
    retryable: bool = False
    study_key: str | None = None
    series_key: str | None = None  # the first, where a file holds several
    series: int = 0

    @classmethod
    def of(cls, problem: FileProblem) -> "Fate":
        """Return the fate that a problem stands for."""
        return cls(problem.severity, problem.code, problem.reason, problem.retryable)
