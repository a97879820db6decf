"""The grid of a search: every combination, each value as its own key would hold it, none that cannot be meant."""

import numpy as np
import pytest
from sklearn.model_selection import ParameterGrid

from medmllm.config import TrainConfig, load_config
from medmllm.errors import ConfigError
from medmllm.model_documents import ModelSettings
from medmllm.search_config import MOST_CANDIDATES, SEARCHED, combinations
from medmllm.training_config import TrainingSettings


def a_search(*settings: str) -> TrainConfig:
    return load_config(TrainConfig, "train", overrides=[f"training.search.{one}" for one in settings])


def test_combinations_are_those_of_scikit_learn_each_once() -> None:
    grid = {"weight_decay": (0.1, 1.0, 3.0), "dropout": (0.2, 0.5), "flips": (True, False)}
    found = list(combinations(dict(grid), "image"))
    assert len(found) == 3 * 2 * 2
    assert sorted(map(str, ({k: one[k] for k in sorted(one)} for one in found))) == sorted(
        str({k: one[k] for k in sorted(one)}) for one in ParameterGrid(grid)
    )
    assert found[:2] == [{"weight_decay": 0.1, "dropout": 0.2, "flips": flips} for flips in (True, False)]


def test_a_setting_that_makes_no_difference_in_an_arm_makes_no_candidates_there() -> None:
    grid = {"image_width": (4, 8), "text_learning_rate": (1e-3, 1e-4)}
    assert list(combinations(dict(grid), "text")) == [{"text_learning_rate": rate} for rate in (1e-3, 1e-4)]
    assert list(combinations(dict(grid), "table")) == [{}]
    assert len(list(combinations(dict(grid), "fused"))) == 4


def test_every_setting_that_can_be_searched_is_one_of_training_or_model() -> None:
    assert set(SEARCHED) <= set(TrainingSettings.model_fields) | set(ModelSettings.model_fields)


def test_values_are_kept_as_their_own_keys_hold_them() -> None:
    found = a_search("weight_decay=[0, 1]", "batch_size=[4, 8]", "class_weights=['none', [1, 3]]").training.search
    assert found == {"weight_decay": (0.0, 1.0), "batch_size": (4, 8), "class_weights": ("none", (1.0, 3.0))}
    assert [type(one) for one in found["weight_decay"]] == [float, float]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("weight_deca=[0.1, 1.0]", "did you mean 'weight_decay'"),
        ("folds=[3, 5]", "no setting that is searched; those that are: learning_rate"),
        ("weight_decay=[0.1, -1.0]", r"weight_decay = -1.0: Input should be greater than or equal to 0"),
        ("dropout=[0.1, 1.0]", r"dropout = 1.0: Input should be less than 1"),
        ("image_stem_kernel=[3, 4]", "image_stem_kernel = 4: Input should be 3, 5 or 7"),
        ("weight_decay=[0.1]", "one candidate, and nothing to choose"),
        ("weight_decay=[]", "weight_decay wants one value or more"),
        ("weight_decay=[0.1, 0.1]", "each once"),
        ("sampling=['shuffle', 'balanced']", r"\{'sampling': 'balanced'\} cannot be: .*class_weights 'none'"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        a_search(setting)


def test_more_candidates_than_can_be_meant_are_refused_with_both_numbers() -> None:
    rates = f"learning_rate={[round(float(rate), 4) for rate in np.linspace(0.001, 0.1, MOST_CANDIDATES // 2)]}"
    assert len(a_search(rates, "flips=[true, false]").training.search["learning_rate"]) == MOST_CANDIDATES // 2
    with pytest.raises(ConfigError, match=f"{3 * MOST_CANDIDATES // 2} candidates, at most {MOST_CANDIDATES}"):
        a_search(rates, "weight_decay=[0.1, 1.0, 10.0]")


def test_a_refused_grid_is_answered_by_the_reason_alone_not_by_the_grid() -> None:
    rates = ", ".join(f"0.{k:03d}" for k in range(1, MOST_CANDIDATES + 2))
    with pytest.raises(ConfigError) as caught:
        a_search(f"learning_rate=[{rates}]")
    assert str(caught.value).endswith(
        f"[training] search: {MOST_CANDIDATES + 1} candidates, at most {MOST_CANDIDATES} are trained: "
        "give fewer values, or search in two runs"
    )


def test_one_value_where_a_search_wants_a_list_is_called_so() -> None:
    with pytest.raises(ConfigError, match=r"\[training.search\] dropout: Input should be a list, got 0.5"):
        a_search("dropout=0.5")


@pytest.mark.parametrize("setting", ["model.dropout=[0.2, 0.5]", "training.weight_decay=[0.1, 1.0]"])
def test_a_list_where_one_value_is_wanted_is_told_where_lists_go(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"several to choose from go into \[training.search\]"):
        load_config(TrainConfig, "train", overrides=[setting])
