"""Hold a finished run against [policy]: which rules it meets, which not, with value and bound.

policy, metrics of the packaged arm, groups, use of modalities -> one RuleDocument per rule, for each target

A number that is not defined, or was not measured, meets no rule. What cannot be measured at all with these settings,
this task and these groups, and a bound outside of what its metric can be, are refused before the training.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from medmllm.config import TrainConfig
from medmllm.errors import ConfigError
from medmllm.evaluation import survival_fairness
from medmllm.evaluation.cohort import OutOfFold, measures_of
from medmllm.evaluation.fairness import GAPS, group_measures, rests_on
from medmllm.evaluation.survival import OVERALL
from medmllm.model_documents import Task
from medmllm.records import UNKNOWN, ArmEvaluation, Study, Survival, Target
from medmllm.training.groups import Groups
from medmllm.trust_config import RANGES, PolicySettings
from medmllm.trust_documents import ModalityUseDocument, RuleDocument, SubgroupDocument


def check_policy(config: TrainConfig) -> None:
    """Refuse rules that these settings leave without a number, and bounds that no number can reach or miss.

    Raises:
        ConfigError: Gaps without groups, use of modalities without permutations or of one that is not read, or a bound
            outside what the metric can be.
    """
    policy = config.policy
    for table, rules in (("least", policy.least), ("most", policy.most), ("gap", policy.gap)):
        for name, bound in rules.items():
            low, high = RANGES[_plain(name)]
            if not low <= bound <= high:
                raise ConfigError(
                    f"[policy.{table}] {name} = {bound:g} lies outside of what {_plain(name)} can be, {low:g} to "
                    f"{high:g}: name a bound within, or take the rule out"
                )
    if policy.gap and not config.evaluation.subgroups.columns:
        raise ConfigError("[policy.gap] asks for gaps between groups, but [evaluation.subgroups] columns names none")
    if policy.may_not_ignore and not config.evaluation.permutations:
        raise ConfigError("[policy] may_not_ignore wants [evaluation] permutations above 0")
    unread = {"recording": not config.recording.enabled, "table": not config.table.columns}
    for modality in policy.may_not_ignore:
        if unread.get(modality, False):
            key = "enabled = true" if modality == "recording" else "columns"
            raise ConfigError(f"[policy] may_not_ignore names {modality!r}, which no arm reads: set [{modality}] {key}")


def check_rules(config: TrainConfig, task: Task) -> None:
    """Refuse rules on what this kind of task does not have, two that exclude each other, and bounds of other targets.

    Raises:
        ConfigError: Names the rule, and the metrics or targets that there are.
    """
    _check_targets(config.policy, [part.target for part in task.parts or (task,)])
    parts = task.parts or (task,)
    measured = [_measured(part) for part in parts]
    for part, (metrics, gaps) in zip(parts, measured, strict=True):
        own = rules_of(config.policy, part.target)
        for table, rules, known in (("least", own.least, metrics), ("most", own.most, metrics), ("gap", own.gap, gaps)):
            unknown = next((name for name in rules if name not in known), None)
            if unknown is not None:
                having = [
                    other.target
                    for other, found in zip(parts, measured, strict=True)
                    if unknown in found[table == "gap"]
                ]
                raise ConfigError(_not_measured(table, unknown, part, known, having))
        for name in own.least.keys() & own.most.keys():
            if own.least[name] > own.most[name]:
                raise ConfigError(
                    f"[policy] asks for {name} of {part.target} at least {own.least[name]:g} and at most "
                    f"{own.most[name]:g}, which no run can meet: take one of the two rules out"
                )


def _not_measured(table: str, name: str, part: Task, known: Sequence[str], having: Sequence[str]) -> str:
    """Return why a rule is refused; `having` are the targets that it can be asked of."""
    apart = ", ".join(f'"{name}[{target}]"' for target in having)
    ways = [f"ask it of others alone ({apart})"] if having else []
    ways += [f"choose among {', '.join(known)}"] if known else []
    return (
        f"[policy.{table}] {name} is not measured for a target of kind {part.kind!r} ({part.target}): "
        f"{', '.join([*ways, ''])}{'or ' if ways else ''}take the rule out"
    )


def check_gaps(
    config: TrainConfig, groups: Groups, studies: Sequence[Study], task: Task, labels: Mapping[str, Target]
) -> None:
    """Refuse gaps between groups of a column that has fewer than two to compare.

    Args:
        config: Asks for gaps, and says how many patients a group has at least.
        groups: As of `read_groups`.
        studies: The labelled ones.
        task: What is learnt of them.
        labels: study_key -> class index or time, or one per target.

    Raises:
        ConfigError: Names the columns, and how many of their groups are large enough.
    """
    fewest = config.evaluation.subgroups.fewest_patients
    for place, part in enumerate(task.parts or (task,)):
        for gap in rules_of(config.policy, part.target).gap:
            asked = _asked_of(gap, part)
            known = [(study, own) for study in studies if (own := _class_of(labels[study.study_key], place)) != UNKNOWN]
            counts = {column: _large_groups(of, known, asked, fewest) for column, of in groups.items()}
            short = [(column, large, names) for column, (large, names) in counts.items() if large < 2]
            if short:
                (column, large, names), *more = short
                of_target = f" of {part.target}" if task.parts else ""
                others = "".join(f"; so have {large} of the {names} of {column!r}" for column, large, names in more)
                raise ConfigError(
                    f"[policy.gap] {gap}{of_target} compares groups of {column!r}, and {large} of its {names} have "
                    f"{fewest} patients{_whose(asked, part)} or more{others}: take {'them' if more else 'the column'} "
                    "out of [evaluation.subgroups] columns, lower its fewest_patients, or take the rule out"
                )


def _large_groups(
    of: Mapping[str, str | None], known: Sequence[tuple[Study, int]], asked: Sequence[int], fewest: int
) -> tuple[int, int]:
    """Return how many groups of a column have enough patients of each class asked for, and how many there are.

    Args:
        of: study_key -> group.
        known: Studies with their class.
        asked: Classes; empty: any will do.
        fewest: Patients.
    """
    owners: dict[tuple[str | None, int], set[str]] = defaultdict(set)
    for study, own in known:
        owners[of[study.study_key], own if asked else UNKNOWN].add(study.patient_key)
    names = {group for group in of.values() if group is not None}
    return sum(all(len(owners[name, own]) >= fewest for own in asked or (UNKNOWN,)) for name in names), len(names)


def _class_of(label: Target, place: int) -> int:
    """Return the class of one of several targets, or of the only one; of a time whether the event came."""
    own = label[place] if isinstance(label, tuple) else label
    return int(own.event) if isinstance(own, Survival) else own


def _whose(asked: Sequence[int], part: Task) -> str:
    """Return in words of which classes patients are counted; nothing where any will do."""
    if part.survival is not None:
        return f" with {part.survival.event!r}" if asked else ""
    return f" of class {' and of class '.join(repr(part.classes[own]) for own in asked)}" if asked else ""


def _asked_of(gap: str, part: Task) -> tuple[int, ...]:
    """Return the classes that a group must have enough patients of, 1 being the event of a time; none: any will do."""
    if part.survival is not None:
        return (1,) if gap == "c_index_gap" else ()
    return rests_on(GAPS[gap], len(part.classes), ordered=part.ordered)


def _measured(task: Task) -> tuple[Sequence[str], Sequence[str]]:
    """Return the names of the metrics of all studies, and of the gaps, that are measured for a kind of task.

    They are asked of an arm that says nothing, so that what is measured is listed in one place only.
    """
    if task.survival is not None:
        return OVERALL, survival_fairness.GAPS
    count, ordered = len(task.classes), task.kind == "ordinal"
    each, logits = np.arange(count), np.zeros((count, count))
    arm = OutOfFold("none", np.full((count, count), 1 / count), logits[0] if count == 2 else logits, each)
    own = group_measures(arm, each, each >= 0, ordered=ordered)
    return (
        [name for name in measures_of(arm, each, each, task.classes, ordered=ordered) if name in RANGES],
        [gap for gap, metric in GAPS.items() if metric in own],
    )


def _plain(name: str) -> str:
    """Return the metric of a rule, without the target that it is of."""
    return name.partition("[")[0]


def _check_targets(policy: PolicySettings, targets: Sequence[str]) -> None:
    """Refuse bounds of a target that is not trained for."""
    for kind, bounds in (("least", policy.least), ("most", policy.most), ("gap", policy.gap)):
        for name in bounds:
            _, bracket, rest = name.partition("[")
            if bracket and rest.removesuffix("]") not in targets:
                raise ConfigError(
                    f"[policy.{kind}] {name!r} is of a target that is not trained for; the targets are "
                    f"{', '.join(targets)}"
                )


def rules_of(policy: PolicySettings, target: str) -> PolicySettings:
    """Return the policy as it holds for one target: NAME[TARGET] goes before NAME, others' bounds are gone."""

    def own(bounds: Mapping[str, float]) -> dict[str, float]:
        plain = {name: bound for name, bound in bounds.items() if "[" not in name}
        end = f"[{target}]"
        return plain | {name.removesuffix(end): bound for name, bound in bounds.items() if name.endswith(end)}

    return policy.model_copy(update={"least": own(policy.least), "most": own(policy.most), "gap": own(policy.gap)})


def judge(
    policy: PolicySettings,
    arm: ArmEvaluation,
    *,
    reads: Sequence[str],
    subgroups: Sequence[SubgroupDocument],
    uses: Sequence[ModalityUseDocument],
) -> tuple[RuleDocument, ...]:
    """Return every rule of the policy and whether the run meets it.

    Args:
        policy: The rules.
        arm: Metrics of the packaged arm.
        reads: Modalities that this arm reads.
        subgroups: Its groups, by column.
        uses: What arms take from their modalities.
    """
    own = [use for use in uses if use.arm == arm.arm]
    return (
        *_on_metrics(policy, arm),
        *(rule for found in subgroups for rule in _on_gaps(policy, found)),
        *(() if subgroups else _without_groups(policy)),
        *_on_use(policy, arm.arm, reads, own),
    )


def _on_metrics(policy: PolicySettings, arm: ArmEvaluation) -> Iterator[RuleDocument]:
    values = {metric.name: metric.estimate for metric in arm.metrics if metric.group == "all"}
    for kind, bounds in (("least", policy.least), ("most", policy.most)):
        for name, bound in bounds.items():
            value = values.get(name)
            met = value is not None and (value >= bound if kind == "least" else value <= bound)
            asked = f"at {kind} {bound:g}"
            yield _rule(f"policy.{kind}.{name}", f"{name} of the {arm.arm} arm", value, bound, asked, met)


def _on_gaps(policy: PolicySettings, found: SubgroupDocument) -> Iterator[RuleDocument]:
    gaps = {gap.name: gap for gap in found.gaps}
    for name, bound in policy.gap.items():
        gap = gaps.get(name)
        value = None if gap is None else gap.difference.estimate
        between = "" if gap is None else f" ({gap.highest} against {gap.lowest})"
        met = value is not None and value <= bound
        what = f"{name} between groups of {found.column}{between}"
        yield _rule(f"policy.gap.{name}", what, value, bound, f"at most {bound:g}", met)


def _without_groups(policy: PolicySettings) -> Iterator[RuleDocument]:
    for name, bound in policy.gap.items():
        yield _rule(f"policy.gap.{name}", f"{name} between groups", None, bound, f"at most {bound:g}", met=False)


def _on_use(
    policy: PolicySettings, arm: str, reads: Sequence[str], uses: Sequence[ModalityUseDocument]
) -> Iterator[RuleDocument]:
    of = {use.modality: use for use in uses}
    for name in policy.may_not_ignore:
        rule, use = f"policy.may_not_ignore.{name}", of.get(name)
        if name not in reads:
            said = f"the {arm} arm does not read the modality {name}, the policy asks that it be used"
            yield RuleDocument(rule=rule, value=None, bound=None, met=False, said=said)
        elif use is None:
            met = len(reads) == 1  # there is nothing else that it could go by
            said = f"the {arm} arm reads {name} alone" if met else f"whether the {arm} arm uses {name} was not tested"
            yield RuleDocument(rule=rule, value=None, bound=None, met=met, said=said)
        else:
            met, value = use.verdict != "ignored", use.fall.estimate
            said = f"the {arm} arm {'is not shown to ignore' if met else 'ignores'} {name}"
            yield RuleDocument(rule=rule, value=value, bound=use.bound, met=met, said=said)


def _rule(rule: str, what: str, value: float | None, bound: float, asked: str, met: bool) -> RuleDocument:
    number = "is not defined" if value is None else f"is {value:.3f}"
    return RuleDocument(
        rule=rule, value=value, bound=bound, met=met, said=f"{what} {number}, the policy asks for {asked}"
    )


def unmet(rules: Sequence[RuleDocument]) -> tuple[str, ...]:
    """Return in plain words which rules are not met.

    >>> unmet([RuleDocument(rule="policy.least.auroc", value=0.6, bound=0.7, met=False, said="auroc is 0.600")])
    ('Policy not met (policy.least.auroc): auroc is 0.600.',)
    """
    return tuple(f"Policy not met ({rule.rule}): {rule.said}." for rule in rules if not rule.met)
