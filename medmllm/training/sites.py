"""Leave one site out: each test fold is all studies of one value of a column of the label table.

    labelled studies, training.group_out -> site of each -> checked GivenFolds, tuning parts to be carved later

How well a model does at a hospital that it never saw is another question than how well it does on unseen patients of
the same ones. Folds are numbered by the alphabetical order of the values, so that a team can tell which is which; the
values themselves are in no message, log or result. A site may lack a class: AUROC is pooled over all sites. What would
put a site or a patient on two sides is refused: a value spelt in two ways, a study without a value, a patient at two
sites.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from medmllm.errors import SplitError
from medmllm.ingest.tables import MISSING
from medmllm.records import Study
from medmllm.training.held import EVENTS, Held, count_patients
from medmllm.training.split_file import GivenFold, some_of
from medmllm.training.splits import SplitPlan, patient_numbers
from medmllm.trust_config import HEADER

MOST_SITES = 20
"""Each site costs a model per arm; a column with more values is most likely none of sites."""


def site_folds(studies: Sequence[Study], held: Held, column: str) -> tuple[GivenFold, ...]:
    """Return one fold per site, without tuning parts.

    Args:
        studies: The labelled ones.
        held: What training and tuning parts have to hold.
        column: Of the label table; `training.group_out`.

    Raises:
        SplitError: No such column, a study without a value, fewer than 2 or more than 20 sites, a value spelt in two
            ways, a patient at two sites, or too few patients outside a site, of a class or with the event.
    """
    site_of = read_sites(studies, column)
    by_site: defaultdict[str, list[str]] = defaultdict(list)
    for key, site in site_of.items():
        by_site[site].append(key)
    if not 2 <= len(by_site) <= MOST_SITES:
        raise SplitError(
            f"the column {column!r} (training.group_out) has {len(by_site)} different values among the labelled "
            f"studies; 2 to {MOST_SITES} sites can be left out one by one: name a column of sites, or give small sites "
            'one value together. training.group_out = "" makes folds by patient.'
        )
    _refuse_two_spellings(list(by_site), column)
    _refuse_patients_at_two_sites(studies, site_of, column)
    folds = tuple(
        GivenFold(tuple(key for key in site_of if site_of[key] != site), None, tuple(by_site[site]))
        for site in sorted(by_site)
    )
    _refuse_too_little_left(folds, studies, held)
    return folds


def check_sites(given: Sequence[GivenFold], studies: Sequence[Study], column: str) -> None:
    """Refuse folds of a file that do not each test one site.

    Raises:
        SplitError: Also where the column cannot be used.
    """
    site_of = read_sites(studies, column)
    tested = [{site_of[key] for key in fold.test if key in site_of} for fold in given]
    times = Counter(site for sites in tested for site in sites)
    if any(len(sites) > 1 for sites in tested) or any(count > 1 for count in times.values()):
        raise SplitError(
            f"the folds of --splits do not each test one site (training.group_out = {column!r}): leave --splits away, "
            'or set training.group_out = "".'
        )


def read_sites(studies: Sequence[Study], column: str) -> dict[str, str]:
    """Return study_key -> site.

    Raises:
        SplitError: No study has the column, or one has no value there.
    """
    columns = sorted({name for study in studies for name in study.facts})
    if column not in columns:
        raise SplitError(
            f"the label table has no column {column!r} (training.group_out); besides identifiers it has "
            f"{', '.join(columns) or 'none'}."
        )
    site_of = {study.study_key: study.facts.get(column, "").strip() for study in studies}
    empty = [key for key, site in site_of.items() if site.lower() in MISSING]
    if empty:
        way_out = "Fill it in"
        if column.startswith(HEADER):
            way_out = "Their headers do not tell it, or not alike: take a column of the label table"
        raise SplitError(
            f"{len(empty)} labelled studies have no value in the column {column!r} (training.group_out): "
            f"{some_of(empty)}. {way_out}, or clear their label, which leaves them out."
        )
    return site_of


def read_folds(given: Sequence[GivenFold], study_keys: Sequence[str]) -> tuple[list[GivenFold], list[str]]:
    """Return the folds with a study that could be read, and a remark on how many have none.

    Raises:
        SplitError: Fewer than two are left.
    """
    there = set(study_keys)
    left = [fold for fold in given if not there.isdisjoint(fold.test)]
    if len(left) < 2:
        raise SplitError(
            f"studies of {len(left)} site could be used, 2 are needed to leave one out: training_ledger.csv says why "
            'the others were refused; training.group_out = "" makes folds by patient.'
        )
    gone = len(given) - len(left)
    said = f"No study of {gone} of {len(given)} sites could be used: they are not tested, nor counted among the folds."
    return left, [said] if gone else []


def remark_sites(plan: SplitPlan, held: Held, column: str) -> list[str]:
    """Return remarks on what the folds are, and on those whose site lacks a class."""
    said = [
        f"Each of the {len(plan.outer)} folds tests one site left out of training (training.group_out = {column!r}); "
        "training.folds was not used."
    ]
    lacking = [str(part.fold) for part, *_ in plan.outer if not held.values[part.test].any(axis=0).all()]
    if lacking:
        sites, lack, count = ("site of fold", "lacks", "it counts")
        if len(lacking) > 1:
            sites, lack, count = ("sites of folds", "lack", "they count")
        what, told = ("a class", "cases there are told from no controls")
        if held.names == EVENTS:
            what, told = ("any event", "times there are ordered by no event")
        said.append(
            f"The {sites} {', '.join(lacking)} {lack} {what}: {count} in the figures over all sites, but {told} of "
            "their own site."
        )
    return said


def _refuse_two_spellings(sites: Sequence[str], column: str) -> None:
    spellings = Counter(plain_value(site) for site in sites)
    doubled = sum(count > 1 for count in spellings.values())
    if doubled:
        raise SplitError(
            f"{doubled} values of the column {column!r} (training.group_out) are spelt in several ways, apart by upper "
            "and lower case, spaces or decimals alone: one site would be trained on and tested on. Spell each alike."
        )


def plain_value(site: str) -> str:
    """Return a value without what tells spellings of it apart; 1 and 1.0 are one, as tables pass through pandas."""
    words = " ".join(site.split()).casefold()
    try:
        return f"{float(words):.15g}"
    except ValueError:
        return words


def _refuse_patients_at_two_sites(studies: Sequence[Study], site_of: Mapping[str, str], column: str) -> None:
    sites: defaultdict[str, set[str]] = defaultdict(set)
    for study in studies:
        sites[study.patient_key].add(site_of[study.study_key])
    split = [patient for patient, own in sites.items() if len(own) > 1]
    if split:
        raise SplitError(
            f"{len(split)} patients have studies at several sites (training.group_out = {column!r}): {some_of(split)}. "
            "They would be trained on and tested on: give each patient one site, or clear the label of their studies "
            "at the others."
        )


def _refuse_too_little_left(folds: Sequence[GivenFold], studies: Sequence[Study], held: Held) -> None:
    """Refuse where training and tuning cannot both hold a class; reading studies only makes them fewer."""
    owner = patient_numbers([study.patient_key for study in studies])
    place = {study.study_key: k for k, study in enumerate(studies)}
    for number, fold in enumerate(folds):
        left = held.patients(owner, np.array([place[key] for key in fold.train]))
        for count, name in zip(left, held.names, strict=True):
            if count < 2:
                raise SplitError(
                    f"without the site of fold {number}, {name} has {count_patients(count)}; 2 are needed, one to "
                    "train on and one to tune on: give that site and another one value together, choose another "
                    '--target, or set training.group_out = "".'
                )
