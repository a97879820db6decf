"""Each rule of the policy is held against its number; what is not known meets no rule."""

import re
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from medmllm.config import TrainConfig, load_config
from medmllm.errors import ConfigError
from medmllm.evaluation.cohort import OutOfFold, binary_measures, multiclass_measures
from medmllm.evaluation.fairness import GAPS
from medmllm.evaluation.kaplan_meier import Followed
from medmllm.evaluation.ordinal import ordinal_measures
from medmllm.evaluation.survival import SurvivalOutOfFold, survival_measures
from medmllm.evaluation.survival_fairness import GAPS as SURVIVAL_GAPS
from medmllm.model_documents import SurvivalTask, Task
from medmllm.records import UNKNOWN, ArmEvaluation, Metric, Study, Survival
from medmllm.training.policy import check_gaps, check_policy, check_rules, judge, rules_of, unmet
from medmllm.trust_config import RANGES, GapName, MetricName, PolicySettings
from medmllm.trust_documents import (
    EstimateDocument,
    GapDocument,
    ModalityUseDocument,
    RuleDocument,
    SubgroupDocument,
)

ARM = ArmEvaluation("fused", tuple(Metric(name, value, None, None, 50, 40) for name, value in
                                   (("auroc", 0.75), ("ece", 0.1), ("calibration_slope", None))))  # fmt: skip
NUMBER = EstimateDocument(estimate=0.125, low=None, high=None)
SEX = SubgroupDocument(
    column="sex", arm="fused", groups=(), too_small={}, unknown=0,
    gaps=(GapDocument(name="auroc_gap", highest="M", lowest="F", difference=NUMBER),),
)  # fmt: skip


FOLLOWED = Followed(np.array([1.0, 2.0]), np.array([True, True]))
TIMED = SurvivalOutOfFold("fused", (1.0,), np.zeros((2, 51)), np.array([0, 1]))


def policy(**rules: Any) -> PolicySettings:
    empty: dict[str, Any] = {"least": {}, "most": {}, "gap": {}, "may_not_ignore": ()}
    return PolicySettings.model_validate(empty | rules)


def use(verdict: Any, modality: str = "image", arm: str = "fused") -> ModalityUseDocument:
    return ModalityUseDocument(
        arm=arm, modality=modality, n=50, patients=40, permutations=5, auroc=NUMBER, permuted=NUMBER, fall=NUMBER,
        fall_absent=NUMBER, bound=0.02, verdict=verdict,
    )  # fmt: skip


def judged(asked: PolicySettings, **given: Any) -> tuple[RuleDocument, ...]:
    return judge(asked, ARM, **({"reads": ("image", "text"), "subgroups": (SEX,), "uses": ()} | given))


def test_rules_can_be_made_of_every_metric_and_every_gap() -> None:
    target, logits = np.array([0, 1]), np.zeros((2, 3))
    arm = OutOfFold("fused", np.full((2, 3), 1 / 3), logits, target)
    ordinal = ordinal_measures(target, arm.probabilities, target, ("a", "b", "c"))
    of_cuts = {"auroc[>=b]", "auroc[>=c]"}  # named by the user's classes
    timed = {name for name, group in survival_measures(TIMED, FOLLOWED, target, {"1 year": 1.0}) if group == "all"}
    measured = {*timed, *binary_measures(arm, target, target), *multiclass_measures(arm, target), *ordinal} - of_cuts
    assert set(get_args(MetricName)) == measured
    assert set(get_args(GapName)) == {*GAPS, *SURVIVAL_GAPS}
    assert RANGES.keys() == {*get_args(MetricName), *get_args(GapName)}


@pytest.mark.parametrize(
    ("rules", "met"),
    [
        ({"least": {"auroc": 0.75}}, True),  # as good as asked for
        ({"least": {"auroc": 0.751}}, False),
        ({"most": {"ece": 0.1}}, True),
        ({"most": {"ece": 0.099}}, False),
        ({"least": {"calibration_slope": 0.0}}, False),  # not defined
        ({"most": {"log_loss": 9.0}}, False),  # not measured for two classes
        ({"gap": {"auroc_gap": 0.125}}, True),
        ({"gap": {"auroc_gap": 0.1}}, False),
        ({"gap": {"calibration_gap": 0.5}}, False),  # fewer than two groups had it
    ],
)
def test_a_bound_itself_is_met_and_what_is_not_known_is_not(rules: dict[str, Any], met: bool) -> None:
    (found,) = judged(policy(**rules))
    assert found.met is met
    assert bool(unmet([found])) is not met


def test_gaps_between_groups_that_were_not_measured_are_not_met() -> None:
    (found,) = judged(policy(gap={"auroc_gap": 0.5}), subgroups=())
    assert unmet([found]) == (
        "Policy not met (policy.gap.auroc_gap): auroc_gap between groups is not defined, "
        "the policy asks for at most 0.5.",
    )


def test_a_broken_rule_says_which_what_was_measured_and_what_was_asked() -> None:
    found = judged(policy(least={"auroc": 0.8}, most={"ece": 0.2}, gap={"auroc_gap": 0.1}))
    assert unmet(found) == (
        "Policy not met (policy.least.auroc): auroc of the fused arm is 0.750, the policy asks for at least 0.8.",
        "Policy not met (policy.gap.auroc_gap): auroc_gap between groups of sex (M against F) is 0.125, "
        "the policy asks for at most 0.1.",
    )
    assert [(rule.rule, rule.value, rule.bound) for rule in found] == [
        ("policy.least.auroc", 0.75, 0.8),
        ("policy.most.ece", 0.1, 0.2),
        ("policy.gap.auroc_gap", 0.125, 0.1),
    ]


@pytest.mark.parametrize(
    ("uses", "reads", "met"),
    [
        ([use("used")], ("image", "text"), True),
        ([use("unclear")], ("image", "text"), True),  # ignoring it is not shown
        ([use("ignored")], ("image", "text"), False),
        ([use("ignored", "text")], ("image", "text"), False),  # the image was not tested
        ([use("used"), use("ignored", arm="other")], ("image", "text"), True),
        ([], ("image",), True),  # there is nothing else that it could go by
        ([], ("text",), False),  # it does not read the image at all
    ],
)
def test_a_modality_may_not_be_ignored(uses: list[ModalityUseDocument], reads: tuple[str, ...], met: bool) -> None:
    (found,) = judged(policy(may_not_ignore=("image",)), uses=uses, reads=reads)
    assert (found.rule, found.met) == ("policy.may_not_ignore.image", met)


def test_an_empty_policy_asks_nothing() -> None:
    assert judged(policy()) == ()
    check_policy(load_config(TrainConfig, "train"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.gap.auroc_gap=0.1"], r"\[evaluation.subgroups\] columns names none"),
        (['policy.may_not_ignore=["image"]', "evaluation.permutations=0"], "permutations above 0"),
        (['policy.may_not_ignore=["recording"]'], r"which no arm reads: set \[recording\] enabled = true"),
        (['policy.may_not_ignore=["table"]'], r"which no arm reads: set \[table\] columns"),
        (["policy.least.auroc=7"], r"\[policy.least\] auroc = 7 lies outside of what auroc can be, 0 to 1"),
        (["policy.most.ece=-0.1"], r"\[policy.most\] ece = -0.1 lies outside"),
        (["policy.least.quadratic_kappa=-1.5"], "quadratic_kappa can be, -1 to 1"),
        (["policy.gap.auroc_gap=20", 'evaluation.subgroups.columns=["sex"]'], r"\[policy.gap\] auroc_gap = 20"),
    ],
)
def test_rules_that_the_settings_leave_without_a_number_are_refused(overrides: list[str], message: str) -> None:
    config = load_config(TrainConfig, "train", overrides=overrides)
    with pytest.raises(ConfigError, match=message):
        check_policy(config)


BINARY = Task.of("x", ("no", "yes"))
MIXED = Task.of_several((BINARY, Task.of("y", ("a", "b", "c"))))


@pytest.mark.parametrize(
    ("overrides", "task", "message"),
    [
        (
            ["policy.least.quadratic_kappa=0.5"],
            BINARY,
            r"least\] quadratic_kappa is not measured for .* 'binary'",
        ),
        (["policy.most.log_loss=0.5"], BINARY, r"\[policy.most\] log_loss .* choose among auroc, .*specificity"),
        (["policy.least.sensitivity=0.5"], Task.of("x", ("a", "b", "c")), "for a target of kind 'multiclass'"),
        (["policy.least.auprc=0.5"], Task.of("x", ("1", "2", "3"), ordered=True), "for a target of kind 'ordinal'"),
        (
            ["policy.most.calibration_slope=2"],
            Task.of_several((BINARY, Task.of("y", ("a", "b", "c")))),
            r"calibration_slope is not measured for a target of kind 'multiclass'",
        ),
        (["policy.gap.accuracy_gap=0.1"], BINARY, r"\[policy.gap\] accuracy_gap .* among auroc_gap, true_positive"),
        (["policy.gap.true_positive_rate_gap=0.1"], Task.of("x", ("a", "b", "c")), "among auroc_gap, accuracy_gap"),
        (
            ["policy.least.auprc=0.5"],
            MIXED,
            r"'multiclass' \(y\): ask it of others alone \(\"auprc\[x\]\"\), choose among",
        ),
        (
            ["policy.gap.accuracy_gap=0.1"],
            MIXED,
            r"'binary' \(x\): ask .* \(\"accuracy_gap\[y\]\"\), choose .* or take the",
        ),
        (["policy.least.quadratic_kappa=0.5"], MIXED, r"\(x\): choose among .*, or take the rule out"),
    ],
)
def test_a_rule_on_what_this_kind_of_task_does_not_have_is_refused_and_answered_with_what_it_has(
    overrides: list[str], task: Task, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_rules(load_config(TrainConfig, "train", overrides=overrides), task)


def test_a_rule_on_what_the_task_has_is_let_through() -> None:
    asked = load_config(
        TrainConfig, "train", overrides=["policy.least.auroc=1", "policy.most.ece=0", "policy.gap.auroc_gap=0.1"]
    )
    check_rules(asked, BINARY)
    check_rules(load_config(TrainConfig, "train", overrides=["policy.least.auroc=0.5"]), Task.of("x", ("a", "b", "c")))


def test_two_bounds_that_exclude_each_other_are_refused_and_equal_ones_let_through() -> None:
    asked = load_config(TrainConfig, "train", overrides=["policy.least.auroc=0.7", "policy.most.auroc=0.7"])
    check_rules(asked, BINARY)
    with pytest.raises(ConfigError, match=r"auroc of x at least 0\.7 and at most 0\.6, which no run can meet"):
        check_rules(asked.model_copy(update={"policy": policy(least={"auroc": 0.7}, most={"auroc[x]": 0.6})}), BINARY)


def test_a_gap_wants_two_groups_with_enough_patients_in_every_column() -> None:
    asked = load_config(
        TrainConfig,
        "train",
        overrides=[
            "policy.gap.auroc_gap=0.1",
            'evaluation.subgroups.columns=["sex"]',
            "evaluation.subgroups.fewest_patients=2",
        ],
    )
    studies = [Study(f"st-{k}", f"pt-{k // 2}", "folder") for k in range(8)]  # two studies of each patient
    fair = {study.study_key: "FFFFMMMM"[k] for k, study in enumerate(studies)}
    labels = {study.study_key: k % 2 for k, study in enumerate(studies)}  # each patient is of both classes
    check_gaps(asked, {"sex": fair}, studies, BINARY, labels)
    small = fair | {"st-6": None, "st-7": None}  # one patient of M is left, with two studies
    with pytest.raises(
        ConfigError, match=r"groups of 'sex', and 1 of its 2 have 2 patients of class 'no' and of class"
    ):
        check_gaps(asked, {"sex": small}, studies, BINARY, labels)
    calibration = asked.model_copy(update={"policy": policy(gap={"calibration_gap": 0.1})})
    with pytest.raises(ConfigError, match=r"groups of 'sex', and 1 of its 2 have 2 patients or more"):
        check_gaps(calibration, {"sex": small}, studies, BINARY, labels)
    every = {"sex": small, "age": fair, "site": dict.fromkeys(fair, "north")}
    with pytest.raises(
        ConfigError, match=r"of 'sex', and 1 of its 2 .* or more; so have 1 of the 1 of 'site': take them"
    ):
        check_gaps(calibration, every, studies, BINARY, labels)  # all at once, not one more each time
    check_gaps(load_config(TrainConfig, "train"), {"sex": small}, studies, BINARY, labels)


def test_a_gap_of_one_of_several_targets_counts_the_patients_of_whom_that_target_is_known() -> None:
    groups = ['evaluation.subgroups.columns=["sex"]', "evaluation.subgroups.fewest_patients=2"]
    asked = load_config(TrainConfig, "train", overrides=groups)
    studies = [Study(f"st-{k}", f"pt-{k}", "folder") for k in range(8)]
    sexes: dict[str, str | None] = {study.study_key: "FFFFMMMM"[k] for k, study in enumerate(studies)}
    several = Task.of_several((BINARY, Task.of("y", ("not y", "y"))))
    known = {study.study_key: (k % 2, UNKNOWN if k > 4 else k % 2) for k, study in enumerate(studies)}
    for gap in ("auroc_gap", "calibration_gap"):
        of_x, of_all = (asked.model_copy(update={"policy": policy(gap={name: 0.1})}) for name in (f"{gap}[x]", gap))
        check_gaps(of_x, {"sex": sexes}, studies, several, known)
        with pytest.raises(ConfigError, match=rf"{gap} of y compares groups of 'sex', and 1 of its 2 have 2 patients"):
            check_gaps(of_all, {"sex": sexes}, studies, several, known)


@pytest.mark.parametrize(
    ("gap", "label"),
    [("true_positive_rate_gap", 1), ("true_negative_rate_gap", 0), ("auroc_gap", 0), ("auroc_gap", 1)],
)
def test_a_gap_in_a_share_of_a_class_wants_two_groups_with_enough_patients_of_that_class(gap: str, label: int) -> None:
    asked = load_config(
        TrainConfig,
        "train",
        overrides=[
            f"policy.gap.{gap}=0.1",
            'evaluation.subgroups.columns=["sex"]',
            "evaluation.subgroups.fewest_patients=2",
        ],
    )
    studies = [Study(f"st-{k}", f"pt-{k}", "folder") for k in range(8)]
    sexes: dict[str, str | None] = {study.study_key: "FFFFMMMM"[k] for k, study in enumerate(studies)}
    even = {study.study_key: k % 2 for k, study in enumerate(studies)}
    check_gaps(asked, {"sex": sexes}, studies, BINARY, even)
    one = even | dict.fromkeys(("st-4", "st-5", "st-6"), 1 - label) | {"st-7": label}
    named = " and of class ".join(map(repr, BINARY.classes if gap == "auroc_gap" else [BINARY.classes[label]]))
    message = rf"{gap}( of x)? compares groups of 'sex', and 1 of its 2 have 2 patients of class {re.escape(named)}"
    with pytest.raises(ConfigError, match=message):
        check_gaps(asked, {"sex": sexes}, studies, BINARY, one)
    of_auroc = asked.model_copy(update={"policy": policy(gap={"auroc_gap": 0.1})})
    with pytest.raises(ConfigError, match="1 of its 2 have 2 patients of class 'no' and of class 'yes'"):
        check_gaps(of_auroc, {"sex": sexes}, studies, BINARY, one)
    several = Task.of_several((Task.of("y", ("not y", "y")), BINARY))
    sides = {key: (even[key], own) for key, own in one.items()}
    with pytest.raises(ConfigError, match=message):
        check_gaps(asked, {"sex": sexes}, studies, several, sides)
    check_gaps(asked, {"sex": sexes}, studies, several, {key: (own, own) for key, own in even.items()})
    of_y = asked.model_copy(update={"policy": policy(gap={f"{gap}[y]": 0.1})})
    check_gaps(of_y, {"sex": sexes}, studies, several, sides)  # of y there are enough


def test_a_metric_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"\[policy\.least\] takes no key 'aurroc'"):
        load_config(TrainConfig, "train", overrides=["policy.least.aurroc=0.1"])


def test_a_bound_of_one_target_goes_before_that_of_all_and_touches_no_other() -> None:
    asked = policy(least={"auroc": 0.7, "auroc[grade>=3]": 0.8, "auprc[nodule]": 0.5}, most={"ece[nodule]": 0.1})
    assert rules_of(asked, "grade>=3").least == {"auroc": 0.8}
    assert rules_of(asked, "grade>=3").most == {}
    assert rules_of(asked, "nodule").least == {"auroc": 0.7, "auprc": 0.5}
    assert rules_of(asked, "nodule").most == {"ece": 0.1}
    assert rules_of(asked, "side").least == {"auroc": 0.7}
    gaps = policy(gap={"auroc_gap": 0.1, "auroc_gap[side]": 0.3, "accuracy_gap[side]": 0.2})
    assert rules_of(gaps, "side").gap == {"auroc_gap": 0.3, "accuracy_gap": 0.2}
    assert rules_of(gaps, "nodule").gap == {"auroc_gap": 0.1}


def test_a_bound_of_a_target_that_is_not_trained_for_is_refused() -> None:
    task = Task.of_several((Task.of("a>=3", ("no", "yes")), BINARY))
    asked = load_config(TrainConfig, "train")
    check_rules(asked.model_copy(update={"policy": policy(least={"auroc": 0.7, "auroc[a>=3]": 0.8})}), task)
    for rules in ({"least": {"auprc[x]": 0.5}}, {"gap": {"accuracy_gap[y]": 0.1, "true_positive_rate_gap[x]": 0.1}}):
        check_rules(asked.model_copy(update={"policy": policy(**rules)}), MIXED)
    with pytest.raises(
        ConfigError, match=r"\[policy.gap\] 'auroc_gap\[c\]' is of a target .* not trained for.* a>=3, x"
    ):
        check_rules(asked.model_copy(update={"policy": policy(gap={"auroc_gap[c]": 0.1})}), task)
    with pytest.raises(ConfigError, match=r"\[policy.most\] 'ece\[c\]' is of a target .* not trained for.* a>=3, x"):
        check_rules(asked.model_copy(update={"policy": policy(most={"ece[c]": 0.1})}), task)


def test_a_rule_is_of_a_known_metric_also_when_it_names_a_target() -> None:
    with pytest.raises(ValidationError):
        policy(least={"accuracies[nodule]": 0.7})


def test_a_gap_of_the_c_index_wants_patients_with_the_event_in_two_groups() -> None:
    asked = load_config(
        TrainConfig,
        "train",
        overrides=[
            "policy.gap.c_index_gap=0.1",
            'evaluation.subgroups.columns=["sex"]',
            "evaluation.subgroups.fewest_patients=2",
        ],
    )
    own = SurvivalTask(event="death", model="cox", horizons=(9.0,), time_unit="days")
    days = Task(target="days", kind="survival", classes=("no", "yes"), survival=own)
    studies = [Study(f"st-{k}", f"pt-{k}", "folder") for k in range(8)]
    sexes = {study.study_key: "FFFFMMMM"[k] for k, study in enumerate(studies)}
    enough = {study.study_key: Survival(3.0, event=k % 2 == 0) for k, study in enumerate(studies)}
    check_gaps(asked, {"sex": sexes}, studies, days, enough)
    few = enough | {"st-0": Survival(3.0, event=False)}
    with pytest.raises(ConfigError, match=r"1 of its 2 have 2 patients with 'death' or more"):
        check_gaps(asked, {"sex": sexes}, studies, days, few)
    of_brier = asked.model_copy(update={"policy": asked.policy.model_copy(update={"gap": {"brier_gap": 0.1}})})
    check_gaps(of_brier, {"sex": sexes}, studies, days, few)  # which wants patients, whatever became of them
    beside = Task.of_several((BINARY, days))
    of_days = asked.model_copy(
        update={"policy": asked.policy.model_copy(update={"gap": {f"c_index_gap[{days.target}]": 0.1}})}
    )
    check_gaps(of_days, {"sex": sexes}, studies, beside, {key: (UNKNOWN, own) for key, own in enough.items()})
    unknown = {key: (1, own if key != "st-0" else UNKNOWN) for key, own in enough.items()}
    with pytest.raises(ConfigError, match="patients with 'death'"):
        check_gaps(of_days, {"sex": sexes}, studies, beside, unknown)
