"""A cohort that cannot be split because most of it was refused."""

import pytest

from medmllm.errors import ConfigError, LeakageError, SplitError
from medmllm.records import Refusal, Study
from medmllm.training.cohort import Cohort
from medmllm.training.refused_studies import refused_told
from tests.training.small_cohort import a_cohort


def refused(*codes: str) -> Cohort:
    members = a_cohort(4).members
    return Cohort(
        members, tuple((Study(f"st-{k}", "pt", "folder"), Refusal("read", c, "so")) for k, c in enumerate(codes))
    )


def test_the_commonest_reason_stands_before_the_folds_with_where_to_look() -> None:
    cohort = refused("uneven", *["ambiguous_series"] * 3)
    with pytest.raises(SplitError) as told, refused_told(cohort):
        raise SplitError("2 patients cannot fill 5 folds.")
    n = len(cohort.members)
    said = str(told.value)
    assert said.startswith(
        f"4 of {n + 4} labelled studies were refused, 3 of them as ambiguous_series: training_ledger.csv"
    )
    assert "`medmllm select`" in said
    assert said.endswith(f"Of the {n} that are left: 2 patients cannot fill 5 folds.")
    with pytest.raises(ConfigError, match=r"1 of them as uneven") as told_of_slices, refused_told(refused("uneven")):
        raise ConfigError("no study has what [training] arms reads")
    assert "select" not in str(told_of_slices.value)


def test_where_none_was_refused_or_the_error_is_of_something_else_nothing_is_added() -> None:
    with pytest.raises(SplitError, match=r"^too few$"), refused_told(refused()):
        raise SplitError("too few")
    with pytest.raises(LeakageError, match=r"^the same pixels$"), refused_told(refused("uneven")):
        raise LeakageError("the same pixels")
