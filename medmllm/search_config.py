"""Settings of a search: a list of values for each, and every combination of them is a candidate.

    [training.search] of train.toml -> names and values checked, each as its own key would be -> combinations

The outer product, as scikit-learn's ParameterGrid: the last setting changes fastest. What of a study is read (grid,
window, sections) is not searched: a model package has one contract.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from medmllm.documents import Setting

Grid = dict[str, tuple[Setting, ...]]

MOST_CANDIDATES = 100
"""Each is trained once per network, so that a larger grid is a mistake more often than a wish."""

_EVERY = ("image", "text", "recording", "table", "fused")
_IMAGE, _TEXT = ("image", "fused"), ("text", "fused")
SEARCHED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("learning_rate", "weight_decay", "warmup_epochs", "gradient_clip"), _EVERY),
    **dict.fromkeys(("batch_size", "accumulate", "loss", "focal_gamma", "class_weights", "sampling"), _EVERY),
    **dict.fromkeys(("flips", "noise", "shift_voxels"), _IMAGE),
    **dict.fromkeys(("image_encoder", "image_width"), _IMAGE),
    **dict.fromkeys(("image_stem_kernel", "image_stem_stride", "image_stem_pool"), _IMAGE),
    **dict.fromkeys(("text_learning_rate", "tiny_width", "text_batch_norm"), _TEXT),
    **dict.fromkeys(("fusion", "fusion_width", "dropout"), _EVERY),
    "audio_width": ("recording", "fused"),
    "table_width": ("table", "fused"),
    "modality_dropout": ("table", "fused"),
}
"""Setting of [training] or [model] that can be searched -> arms in which it makes a difference."""


def settle_grid(grid: Grid, fields: Mapping[str, FieldInfo]) -> Grid:
    """Return a grid with every value as its own key would hold it.

    Args:
        grid: Setting -> values.
        fields: Of [training] and [model].

    Raises:
        ValueError: A setting that is not searched, no value or one twice, one that its key would not take, a single
            candidate or too many.
    """
    for name in grid:
        if name not in SEARCHED:
            near = difflib.get_close_matches(name, SEARCHED, n=1, cutoff=0.75)
            hint = f"did you mean {near[0]!r}?" if near else f"those that are: {', '.join(SEARCHED)}"
            raise ValueError(f"{name!r} is no setting that is searched; {hint}")
    found = {name: tuple(_settle(name, value, fields[name]) for value in values) for name, values in grid.items()}
    for name, values in found.items():
        if not values or any(one in values[:k] for k, one in enumerate(values)):
            raise ValueError(f"{name} wants one value or more, each once: what is not searched is left out")
    size = math.prod(map(len, found.values()))
    if found and size == 1:
        raise ValueError("there is one candidate, and nothing to choose: set it outside of the search, or add values")
    if size > MOST_CANDIDATES:
        raise ValueError(
            f"{size} candidates, at most {MOST_CANDIDATES} are trained: give fewer values, or search in two runs"
        )
    return found


def _settle(name: str, value: Setting, field: FieldInfo) -> Setting:
    kind: Any = Annotated[field.annotation, field]
    try:
        settled: Setting = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{name} = {value!r}: {error.errors(include_url=False)[0]['msg']}") from None
    return settled


def combinations(grid: Grid, arm: str) -> Iterator[dict[str, Setting]]:
    """Yield every combination of the settings that make a difference in an arm; one without any where none does.

    >>> list(combinations({"weight_decay": (0.1, 1.0), "flips": (True, False)}, "text"))
    [{'weight_decay': 0.1}, {'weight_decay': 1.0}]
    """
    own = {name: values for name, values in grid.items() if arm in SEARCHED[name]}
    for values in product(*own.values()):
        yield dict(zip(own, values, strict=True))
