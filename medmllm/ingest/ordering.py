"""Put the classes of an ordinal target in their order: that of numbers, or the one that is declared.

    Targets, order of [task] or [task.orders] -> Targets with the lowest class first

An order is never guessed: classes that are not all numbers have none until it is declared. Messages count classes
and name columns, never cells.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from medmllm.errors import LabelError
from medmllm.ingest.tables import Target, Targets

LEAST_CLASSES = 3


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the settings of a target stand, as a message names them."""

    kind: str
    order: str


ALONE = Keys("[task] kind", "[task] order")
"""Of the only target."""


def keys_beside_others(target: Target) -> Keys:
    """Return where the settings of one of several targets stand.

    >>> keys_beside_others(Target("side")).order
    '[task.orders] "side"'
    """
    name = json.dumps(target.expression)  # a TOML key in quotes
    return Keys(f"[task.kinds] {name}", f"[task.orders] {name}")


def order_classes(found: Targets, target: Target, order: Sequence[str], *, keys: Keys) -> Targets:
    """Return the targets with their classes in order, lowest first.

    Args:
        found: As of `assign_targets`; classes that are all numbers are in order already.
        target: A plain column.
        order: Classes as the column spells them, lowest first; empty: they are numbers.
        keys: Of the target's kind and order, for messages.

    Raises:
        LabelError: A comparison, fewer than three classes, an order that is not known, or one that does not fit.
    """
    if target.operator is not None or len(found.classes) < LEAST_CLASSES:
        what = "is a comparison" if target.operator is not None else f"has {len(found.classes)}"
        raise LabelError(
            f"an ordinal target is a column of {LEAST_CLASSES} classes or more, {target.expression!r} {what}: "
            f'set {keys.kind} = "classes"'
        )
    if not order:
        strange = sum(_spelling(name) is None for name in found.classes)
        if strange:
            raise LabelError(
                f"{strange} of the {len(found.classes)} classes in column {target.column!r} are no numbers, so their "
                f"order is not known: list all classes in {keys.order}, lowest first"
            )
        return found
    plain = [_spelling(name) or name for name in order]
    if len(set(plain)) < len(plain):
        raise LabelError(f"{keys.order} names a class twice: name each once, lowest first")
    unnamed, unseen = set(found.classes) - set(plain), set(plain) - set(found.classes)
    if unnamed or unseen:
        column = f"in column {target.column!r}"
        faults = [f"lacks {len(unnamed)} of the classes {column}"] if unnamed else []
        faults += [f"names {len(unseen)} that no study has {column}"] if unseen else []
        raise LabelError(f"{keys.order} {' and '.join(faults)}: name exactly the classes of the column, spelt alike")
    place = [plain.index(name) for name in found.classes]
    return Targets(tuple(plain), {key: place[index] for key, index in found.by_study.items()}, found.missing)


def _spelling(name: str) -> str | None:
    """Return a number as `assign_targets` spells it; None for what is no number."""
    try:
        value = float(name)
    except ValueError:
        return None
    return f"{value:.15g}" if math.isfinite(value) else None
