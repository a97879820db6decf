"""Say that studies were refused where what is left of them cannot be trained on: that is the cause, not the folds.

cohort, a refusal to split it -> the same refusal, behind how many studies were refused and what for
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from medmllm.errors import ConfigError, LeakageError, SplitError
from medmllm.training.cohort import Cohort


@contextmanager
def refused_told(cohort: Cohort) -> Iterator[None]:
    """Put what was refused of a cohort before an error that comes of too few studies.

    Raises:
        SplitError, ConfigError: As raised within, in more words.
    """
    try:
        yield
    except LeakageError:
        raise
    except (SplitError, ConfigError) as error:
        if not cohort.refused:
            raise
        raise type(error)(f"{_refused(cohort)} Of the {len(cohort.members)} that are left: {error}") from None


def _refused(cohort: Cohort) -> str:
    counts = Counter(refusal.code for _, refusal in cohort.refused)
    code, most = counts.most_common(1)[0]
    labelled = len(cohort.members) + len(cohort.refused)
    ways = "training_ledger.csv tells why, study by study"
    if code == "ambiguous_series":
        ways += ", and `medmllm select` which series fit each channel of [image.channels]: make its rules narrower"
    return f"{counts.total()} of {labelled} labelled studies were refused, {most} of them as {code}: {ways}."
