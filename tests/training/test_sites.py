"""Sites left out one after the other: each tested once, no patient or site on two sides, refusals that name no site."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmllm.config import TrainConfig, load_config
from medmllm.errors import SplitError
from medmllm.records import Study
from medmllm.training.cohort import Cohort, Member
from medmllm.training.held import Held, hold_classes
from medmllm.training.planning import look_ahead, settle_folds
from medmllm.training.sites import MOST_SITES, check_sites, site_folds
from medmllm.training.split_file import GivenFold, read_split_file, write_splits
from medmllm.training_config import TrainingSettings
from tests.models.small import a_sample

SITES = ("Quillhaven", "Brackwater", "Ostermoor")  # in alphabetical order: 1, 2, 0
Row = tuple[str, str, int]  # patient, site, class


def by_site(**changes: str) -> TrainingSettings:
    packaged = load_config(TrainConfig, "train").training
    return packaged.model_copy(update={"group_out": "site", "tuning_fraction": 0.3} | changes)


def studies_of(rows: Sequence[Row]) -> list[Study]:
    return [
        Study(f"st-{k:016x}", f"pt-{patient}", "folder", facts={"site": site, "outcome": str(label)})
        for k, (patient, site, label) in enumerate(rows)
    ]


def targets_of(rows: Sequence[Row]) -> dict[str, int]:
    return {f"st-{k:016x}": label for k, (_, _, label) in enumerate(rows)}


def held_of(rows: Sequence[Row]) -> Held:
    return hold_classes([label for _, _, label in rows])


def cohort_of(rows: Sequence[Row], *, without: Callable[[Row], bool] = lambda row: False) -> Cohort:
    members = [
        Member(replace(a_sample(k, target=row[2]), study_key=f"st-{k:016x}", patient_key=f"pt-{row[0]}"), None, {})
        for k, row in enumerate(rows)
        if not without(row)
    ]
    return Cohort(tuple(members), ())


def three_sites() -> list[Row]:
    """Four patients of each class at each site; every third has two studies."""
    people = [(f"{site}-{n}", site, n % 2) for site in range(3) for n in range(8)]
    return [(name, SITES[site], label) for name, site, label in people for _ in range(1 + label)]


def refusal(rows: Sequence[Row], column: str = "site") -> str:
    with pytest.raises(SplitError) as caught:
        site_folds(studies_of(rows), held_of(rows), column)
    message = str(caught.value)
    assert not any(site.lower() in message.lower() for _, site, _ in rows if site)
    return message


@st.composite
def cohorts(draw: st.DrawFn) -> list[Row]:
    """Any cohort of 3 to 6 sites where two sites hold both classes thrice, and the others anything, in any order."""
    sites = draw(st.integers(3, 6))
    rows: list[Row] = []
    for site in range(sites):
        sure = [0, 1] * 3 if site < 2 else []
        more = draw(st.lists(st.integers(0, 1), min_size=1, max_size=6))
        for n, label in enumerate([*sure, *more]):
            visits = draw(st.integers(1, 3))
            rows += [(f"{site}-{n}", f"site {site}", label)] * visits
    return draw(st.permutations(rows))


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.integers(0, 5))
def test_each_site_is_tested_once_and_no_patient_is_on_two_sides(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], seed: int
) -> None:
    chosen = by_site().model_copy(update={"seed": seed, "same_pixels": "warn"})
    folds = look_ahead(studies_of(rows), targets_of(rows), chosen, None)
    plan, _ = settle_folds(cohort_of(rows), chosen, folds, tmp_path_factory.mktemp("run"))
    assert [{rows[k][1] for k in part.test} for part in plan.folds] == [{site} for site in sorted({r[1] for r in rows})]
    assert sorted(k for part in plan.folds for k in part.test) == list(range(len(rows)))
    for part in plan.folds:
        sides = [{rows[k][0] for k in side} for side in (part.train, part.tune, part.test)]
        assert sum(map(len, sides)) == len(set.union(*sides)) == len({row[0] for row in rows})
        assert {rows[k][2] for k in part.train} == {rows[k][2] for k in part.tune} == {0, 1}


def test_folds_are_numbered_by_the_alphabetical_order_of_the_sites(tmp_path: Path) -> None:
    rows = three_sites()
    folds = look_ahead(studies_of(rows), targets_of(rows), by_site(), None)
    plan, said = settle_folds(cohort_of(rows), by_site(), folds, tmp_path)
    assert [{rows[k][1] for k in part.test} for part in plan.folds] == [{SITES[1]}, {SITES[2]}, {SITES[0]}]
    assert said == [
        "Each of the 3 folds tests one site left out of training (training.group_out = 'site'); training.folds was "
        "not used."
    ]


def test_a_site_without_a_class_is_tested_and_remarked(tmp_path: Path) -> None:
    rows = [row for row in three_sites() if row[1] != SITES[2] or row[2] == 0]  # fold 1
    folds = look_ahead(studies_of(rows), targets_of(rows), by_site(), None)
    plan, said = settle_folds(cohort_of(rows), by_site(), folds, tmp_path)
    assert len(plan.folds) == 3
    assert "The site of fold 1 lacks a class: it counts" in said[1]
    write_splits(plan, [study.study_key for study in studies_of(rows)], tmp_path)
    given_again = read_split_file(tmp_path / "splits.json", str, {s.study_key: s.patient_key for s in studies_of(rows)})
    again, _ = settle_folds(cohort_of(rows), by_site(), given_again, tmp_path)
    assert again.digest == plan.digest


def test_several_sites_without_a_class_are_named_together(tmp_path: Path) -> None:
    rows = [row for row in three_sites() if row[1] == SITES[0] or row[2] == (row[1] == SITES[1])]
    folds = look_ahead(studies_of(rows), targets_of(rows), by_site(), None)
    _, said = settle_folds(cohort_of(rows), by_site(), folds, tmp_path)
    assert re.match(r"The sites of folds \d, \d lack a class: they count in the figures over all sites", said[1])


@pytest.mark.parametrize("where", [0, 1])
def test_given_folds_that_mix_or_split_sites_are_refused_by_site(where: int) -> None:
    folds = list(site_folds(studies_of(three_sites()), held_of(three_sites()), "site"))
    check_sites(folds, studies_of(three_sites()), "site")
    one, other = folds[0].test, folds[1].test
    mixed = [[(*one, *other)], [one[:4], one[4:]]][where]
    with pytest.raises(SplitError, match="do not each test one site"):
        check_sites([GivenFold((), None, test) for test in mixed], studies_of(three_sites()), "site")


def test_a_site_of_which_no_study_could_be_read_is_left_out_and_remarked(tmp_path: Path) -> None:
    rows = three_sites()
    folds = look_ahead(studies_of(rows), targets_of(rows), by_site(), None)
    plan, said = settle_folds(cohort_of(rows, without=lambda row: row[1] == SITES[1]), by_site(), folds, tmp_path)
    assert len(plan.folds) == 2
    assert said[0].startswith("No study of 1 of 3 sites could be used")
    with pytest.raises(SplitError, match="studies of 1 site could be used, 2 are needed"):
        settle_folds(cohort_of(rows, without=lambda row: row[1] != SITES[0]), by_site(), folds, tmp_path)


def test_too_few_patients_of_a_class_after_reading_are_refused(tmp_path: Path) -> None:
    rows = three_sites()
    folds = look_ahead(studies_of(rows), targets_of(rows), by_site(), None)
    # Only the first site by the alphabet keeps patients of class 1: without it none is left to learn from.
    unread = cohort_of(rows, without=lambda row: row[2] == 1 and row[1] != SITES[1])
    with pytest.raises(SplitError, match="the tuning part of fold 0 lacks class 1"):
        settle_folds(unread, by_site(), folds, tmp_path)


def test_a_patient_at_two_sites_is_refused_by_key() -> None:
    rows = [*three_sites(), ("0-1", SITES[1], 1), ("0-2", SITES[2], 0)]
    assert "2 patients have studies at several sites (training.group_out = 'site'): pt-0-1, pt-0-2." in refusal(rows)


@pytest.mark.parametrize("empty", ["", " ", "NaN", "n/a"])
def test_a_study_without_a_site_is_refused_by_key(empty: str) -> None:
    rows = [*three_sites(), ("new", empty, 1)]
    with pytest.raises(SplitError, match=rf"1 labelled studies have no value .*: st-{len(rows) - 1:016x}\. Fill it in"):
        site_folds(studies_of(rows), held_of(rows), "site")


@pytest.mark.parametrize(("one", "other"), [(SITES[0], "QUILLHAVEN"), ("St  Ode", "St Ode"), ("17", "17.0")])
def test_a_site_spelt_in_two_ways_is_refused(one: str, other: str) -> None:
    rows = [*three_sites(), ("new", one, 1), ("newer", other, 0)]
    with pytest.raises(SplitError, match=r"1 values of the column 'site' .* are spelt in several ways"):
        site_folds(studies_of(rows), held_of(rows), "site")


@pytest.mark.parametrize("count", [1, MOST_SITES + 1])
def test_one_site_or_too_many_are_refused(count: int) -> None:
    rows = [(f"{k}", f"place {k % count}", k // count % 2) for k in range(4 * count)]
    assert f"has {count} different values among the labelled studies; 2 to 20 sites" in refusal(rows)


def test_as_many_sites_as_allowed_pass() -> None:
    rows = [(f"{k}", f"place {k % MOST_SITES}", k // MOST_SITES % 2) for k in range(4 * MOST_SITES)]
    assert len(site_folds(studies_of(rows), held_of(rows), "site")) == MOST_SITES


def test_a_column_that_is_not_there_is_refused_with_those_that_are() -> None:
    message = refusal(three_sites(), "hospital")
    assert "no column 'hospital' (training.group_out); besides identifiers it has outcome, site." in message


def test_a_class_that_is_almost_all_at_one_site_is_refused_before_a_study_is_read() -> None:
    rows = [row for row in three_sites() if row[1] == SITES[1] or row[2] == 0]
    rows += [("lone", SITES[0], 1)] * 3  # one patient does not fill training and tuning, however many studies
    assert "without the site of fold 0, class 1 has 1 patient; 2 are needed" in refusal(rows)
