"""Settle the folds of a run: what can be refused is refused before a study is read, the rest before training.

labelled studies, --splits or training.group_out -> looked at ahead, in seconds
cohort as read -> folds made or given, inner folds in them -> audit of leakage -> RUN/leaks.csv
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from medmllm.csv_tables import write_table
from medmllm.errors import SplitError
from medmllm.ingest.keys import load_keyring
from medmllm.records import Study, Survival, Target
from medmllm.table_rows import LeakRow
from medmllm.training.arms import split_cohort
from medmllm.training.class_splits import check_enough
from medmllm.training.cohort import Cohort
from medmllm.training.held import NUMBERED, Called, Carving, Held, hold_classes, hold_events, hold_labels
from medmllm.training.inner_folds import check_enough_inner, nest
from medmllm.training.label_splits import carve_label_tuning, check_enough_labels
from medmllm.training.leakage import audit
from medmllm.training.numbering_columns import remark_numbering
from medmllm.training.repeats import draw_repeats, repeats_of
from medmllm.training.sites import check_sites, read_folds, remark_sites, site_folds
from medmllm.training.split_file import GivenFold, check_all_given, plan_given, read_split_file
from medmllm.training.splits import SplitPlan
from medmllm.training.subsets import nested_subsets
from medmllm.training.survival_strata import (
    coarse_labels,
    coarse_stratum,
    strata_names,
    stratified_labels,
    subset_classes,
    target_strata,
    times_among,
)
from medmllm.training.telling_columns import remark_columns
from medmllm.training_config import TrainingSettings

Given = tuple[GivenFold, ...]

LEAKS = "leaks.csv"


def look_ahead(
    studies: Sequence[Study],
    targets: Mapping[str, Target],
    settings: TrainingSettings,
    splits: Path | None,
    *,
    called: Called = NUMBERED,
) -> Given | None:
    """Return the folds of a split file or of sites, if asked for; refuse what no reading of studies can mend.

    Args:
        studies: Those of the index.
        targets: study_key -> class index, or labels.
        settings: With the number of folds, and the column of sites.
        splits: splits.json of a run, or nnU-Net's splits_final.json.
        called: The targets and their classes, in a refusal; several targets have names.

    Raises:
        SplitError: Too few patients, one class only, or a split file or column of sites that does not fit.
    """
    labelled = [study for study in studies if study.study_key in targets]
    patients, known = [study.patient_key for study in labelled], [targets[study.study_key] for study in labelled]
    if splits is None and settings.group_out:
        sites = site_folds(labelled, _held(known, called), settings.group_out)
        place = {study.study_key: k for k, study in enumerate(labelled)}
        tests = [[place[key] for key in fold.test] for fold in sites]
        check_enough_inner(patients, _held(known, called), tests, settings.inner_folds)
        return sites
    if splits is None:
        if called.targets:
            strata = stratified_labels(known, patients, settings.folds)
            check_enough_labels(patients, strata, strata_names(called.targets, known), settings.folds, called.classes)
        else:
            check_enough(patients, target_strata(known, patients, settings.folds), settings.folds, called.alone)
        check_enough_inner(patients, _held(known, called), settings.folds, settings.inner_folds)
        return None
    patient_of = {study.study_key: study.patient_key for study in studies}
    given = read_split_file(splits, load_keyring().study, patient_of)
    _check_given(given, settings)
    if any(fold.tune is None for fold in given):  # a run's own file lacks what that run could not read
        check_all_given(given, [study.study_key for study in labelled])
    if settings.group_out:
        check_sites(given, labelled, settings.group_out)
    return given


def _check_given(given: Given, settings: TrainingSettings) -> None:
    """Refuse a split file that has other repeats or tuning parts than the settings ask for; nnU-Net's has none."""
    draws = 1 + max(fold.repeat for fold in given)
    if draws != settings.repeats:
        raise SplitError(
            f"--splits has {draws} draw(s) of the folds, and training.repeats is {settings.repeats}: set it to "
            f"{draws}, or leave --splits away."
        )
    for number, fold in enumerate(given):
        holds = None if fold.tune is None else max(len(fold.inner), 1)
        if holds is not None and holds != settings.inner_folds:
            raise SplitError(
                f"--splits has {holds} tuning part(s) in fold {number}, and training.inner_folds is "
                f"{settings.inner_folds}: set it to {holds}, or give the splits_final.json of that run, which has its "
                "test parts alone."
            )


def _held(known: Sequence[Target], called: Called) -> Held:
    if called.targets:
        names = strata_names(called.targets, known)
        return hold_labels(list(map(coarse_labels, known)), names, times_among(known), called.classes)
    survived = [own for own in known if isinstance(own, Survival)]
    return hold_events(survived) if survived else hold_classes(list(map(coarse_stratum, known)), called.alone)


def settle_folds(
    cohort: Cohort, settings: TrainingSettings, given: Given | None, out: Path, *, called: Called = NUMBERED
) -> tuple[SplitPlan, list[str]]:
    """Return the audited folds, and remarks on what leaks, written to OUT, and on sites.

    Args:
        cohort: As read.
        settings: Of the folds.
        given: As of `look_ahead`.
        out: RUN.
        called: As of `look_ahead`.

    Raises:
        SplitError: The cohort cannot be split so; LeakageError names what leaks.
    """
    keys = cohort.study_keys
    remarks: list[str] = []
    if given is not None and settings.group_out:
        folds, remarks = read_folds(given, keys)
        given = tuple(folds)

    def draw(seed: int) -> SplitPlan:
        own = settings.model_copy(update={"seed": seed})
        return _with_inner(_plan(cohort, own, given, called), cohort, own, called)

    if given is None:
        plan = draw_repeats(draw, settings.repeats, seed=settings.seed, study_keys=keys)
    else:
        plan = draw(settings.seed)
    if settings.group_out:
        remarks += remark_sites(plan, _held(cohort.known, called), settings.group_out)
    if settings.learning_curve:  # refused before anything is trained
        patients = cohort.patients
        truth, times = subset_classes(cohort.known)
        for number, own in enumerate(repeats_of(plan)):
            seed = settings.seed + number
            nested_subsets(own, patients, truth, settings.learning_curve, seed=seed, times=times, called=called)
    leaking, rows = audit(cohort, plan, settings)
    remarks += [*leaking, *remark_columns(cohort, called.targets), *remark_numbering(cohort)]
    write_table(out / LEAKS, LeakRow, rows)
    return plan, remarks


def _with_inner(plan: SplitPlan, cohort: Cohort, settings: TrainingSettings, called: Called) -> SplitPlan:
    """Return the plan with inner folds where they are asked for; those of a split file stay."""
    if settings.inner_folds == 1 or plan.folds[0].inner is not None:
        return plan
    return nest(
        plan,
        cohort.patients,
        _held(cohort.known, called),
        study_keys=cohort.study_keys,
        inner_folds=settings.inner_folds,
        seed=settings.seed,
    )


def _plan(cohort: Cohort, settings: TrainingSettings, given: Given | None, called: Called) -> SplitPlan:
    """Return folds as the settings ask, or as given."""
    if given is None:
        return split_cohort(cohort, settings, called)
    keys, patients, held = cohort.study_keys, cohort.patients, _held(cohort.known, called)
    carving = Carving(held, keys, settings.tuning_fraction, settings.seed, whole_tests=not settings.group_out)
    if called.targets and any(fold.tune is None for fold in given):
        check_all_given(given, keys)
        place = {key: k for k, key in enumerate(keys)}
        tests = [[place[key] for key in fold.test if key in place] for fold in given]
        return carve_label_tuning(tests, patients, cohort.labels, carving)
    return plan_given(given, patients, list(map(coarse_stratum, cohort.known)), carving)
