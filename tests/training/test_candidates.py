"""Candidates are the settings of a run with each combination laid over them, and all that are trained are counted."""

from medmllm.training.arms import split_cohort
from medmllm.training.candidates import all_candidates, candidates, count_epochs, doing, trainings
from medmllm.training.repeats import draw_repeats
from medmllm.training.splits import SplitPlan
from tests.training.small_cohort import a_cohort, a_config

GRID = {"weight_decay": (0.1, 1.0), "dropout": (0.2, 0.5), "image_width": (4, 8)}


def test_a_candidate_changes_what_it_names_in_its_own_table_and_nothing_else() -> None:
    config = a_config(search=GRID)
    third = candidates(config, "image")[3]
    assert dict(third.settings) == {"weight_decay": 0.1, "dropout": 0.5, "image_width": 8}
    assert (third.number, third.config.training.weight_decay, third.config.model.dropout) == (3, 0.1, 0.5)
    restored = third.config.model_copy(update={"training": config.training, "model": config.model})
    assert restored == config
    assert third.config.training.model_copy(update={"weight_decay": config.training.weight_decay}) == config.training


def test_without_a_search_the_settings_are_the_only_candidate() -> None:
    config = a_config()
    assert [one.config for one in candidates(config, "fused")] == [config]
    assert trainings(config, "fused") == 1
    assert doing(config, ["image", "fused"]) == "Training fold models, epochs"


def test_each_arm_has_the_candidates_that_differ_in_it() -> None:
    config = a_config(search=GRID)
    assert [len(candidates(config, arm)) for arm in ("image", "text", "fused")] == [8, 4, 8]
    assert len(list(all_candidates(config))) == 8
    assert doing(config, ["image", "text"]) == "Training fold models, epochs (up to 8 candidates each)"


def test_the_epochs_of_a_run_are_those_of_all_candidates_and_of_the_chosen_in_every_draw_and_part() -> None:
    config, cohort = a_config(search=GRID, epochs=7, learning_curve=(0.5, 0.8)), a_cohort(24)

    def draw(seed: int) -> SplitPlan:
        return split_cohort(cohort, config.training.model_copy(update={"seed": seed}))

    keys = [member.sample.study_key for member in cohort.members]
    plan = draw_repeats(draw, 3, seed=1, study_keys=keys)
    arms = 3 * 2 * ((8 + 1) + (4 + 1))  # draws, folds, trainings of image and text
    assert count_epochs(config, ["image", "text"], "image", plan) == 7 * (arms + 3 * 2 * 2 * (8 + 1))
