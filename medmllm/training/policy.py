"""Hold a finished run against [policy]: which rules it meets, which not, with value and bound.

policy, metrics of the packaged arm, groups, use of modalities -> one RuleDocument per rule, for each target

A number that is not defined, or was not measured, meets no rule. What cannot be measured at all with these settings is
refused before the training.
"""

from collections.abc import Iterator, Mapping, Sequence

from medmllm.config import TrainConfig
from medmllm.errors import ConfigError
from medmllm.records import ArmEvaluation
from medmllm.trust_config import PolicySettings
from medmllm.trust_documents import ModalityUseDocument, RuleDocument, SubgroupDocument


def check_policy(config: TrainConfig) -> None:
    """Refuse rules that these settings leave without a number.

    Raises:
        ConfigError: Gaps without groups, or use of modalities without permutations.
    """
    if config.policy.gap and not config.evaluation.subgroups.columns:
        raise ConfigError("[policy.gap] asks for gaps between groups, but [evaluation.subgroups] columns names none")
    if config.policy.may_not_ignore and not config.evaluation.permutations:
        raise ConfigError("[policy] may_not_ignore wants [evaluation] permutations above 0")


def check_targets(policy: PolicySettings, targets: Sequence[str]) -> None:
    """Refuse bounds for a target that is not trained for.

    Args:
        policy: The rules.
        targets: All targets of the run.

    Raises:
        ConfigError: Names the rule.
    """
    for kind, bounds in (("least", policy.least), ("most", policy.most)):
        for name in bounds:
            _, bracket, rest = name.partition("[")
            if bracket and rest.removesuffix("]") not in targets:
                raise ConfigError(
                    f"[policy.{kind}] {name!r} is of a target that is not trained for; the targets are "
                    f"{', '.join(targets)}"
                )


def rules_of(policy: PolicySettings, target: str) -> PolicySettings:
    """Return the policy as it holds for one target: `METRIC[TARGET]` goes before `METRIC`, others' bounds are gone."""

    def own(bounds: Mapping[str, float]) -> dict[str, float]:
        plain = {name: bound for name, bound in bounds.items() if "[" not in name}
        end = f"[{target}]"
        return plain | {name.removesuffix(end): bound for name, bound in bounds.items() if name.endswith(end)}

    return policy.model_copy(update={"least": own(policy.least), "most": own(policy.most)})


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
