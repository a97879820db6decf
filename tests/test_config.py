"""Settings: defaults in the packaged TOML alone, laid over key by key, and one clear line for what is wrong."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from medmllm.config import (
    CONFIGS,
    DemoConfig,
    ScoreConfig,
    TrainConfig,
    flatten,
    load_config,
    merge,
    packaged_defaults,
    parse_override,
)
from medmllm.documents import Document
from medmllm.errors import ConfigError

PIPELINES = Path(__file__).resolve().parents[1] / "pipelines"


def test_nested_tables_become_dotted_keys() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": (2, 3)}, "e": None}) == {"a.b.c": 1, "a.d": (2, 3), "e": None}


def train(file: Path | None = None, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, "train", file=file, overrides=overrides)


def a_file(tmp_path: Path, text: str, name: str = "mine.toml") -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


# --- defaults ------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", sorted(CONFIGS))
def test_the_packaged_settings_of_every_verb_are_valid(verb: str) -> None:
    assert isinstance(load_config(CONFIGS[verb], verb), CONFIGS[verb])


def test_the_packaged_settings_are_the_ones_a_reader_sees_in_pipelines() -> None:
    for verb in ("train", "score"):
        own = tomllib.loads((PIPELINES / f"{verb}.toml").read_text(encoding="utf-8"))
        assert packaged_defaults(verb) == merge({"quality": packaged_defaults("quality")["quality"]}, own)
    assert packaged_defaults("quality") == tomllib.loads((PIPELINES / "quality.toml").read_text(encoding="utf-8"))


def settings_models(model: type[Document]) -> set[type[Document]]:
    """Return a settings model and all models within it, but for channels: each of them is a user's own."""
    found = {model}
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Document):
            found |= settings_models(field.annotation)
    return found


def test_no_default_stands_in_the_code() -> None:
    models = settings_models(DemoConfig)
    assert len(models) > 8
    assert [f"{m.__name__}.{name}" for m in models for name, f in m.model_fields.items() if not f.is_required()] == []


def test_the_demo_lays_its_tables_over_those_of_train_and_score() -> None:
    demo, own = load_config(DemoConfig, "demo"), tomllib.loads((PIPELINES / "demo.toml").read_text(encoding="utf-8"))
    assert demo.train.training.folds == own["train"]["training"]["folds"] != train().training.folds
    assert demo.train.training.weight_decay == train().training.weight_decay
    assert set(demo.train.image.channels) == set(own["train"]["image"]["channels"]), "channels are replaced whole"
    assert demo.score.explain.steps == load_config(ScoreConfig, "score").explain.steps
    assert demo.score.explain.max_steps == own["score"]["explain"]["max_steps"]


# --- laying over ---------------------------------------------------------------------------


def test_a_users_file_wins_over_the_packaged_and_set_over_both(tmp_path: Path) -> None:
    file = a_file(tmp_path, "[training]\nfolds = 4\nseed = 9\n")
    settings = train(file, "training.seed=11", "training.noise=0.5")
    assert (settings.training.folds, settings.training.seed, settings.training.noise) == (4, 11, 0.5)
    assert settings.training.batch_size == train().training.batch_size


def test_the_last_of_two_settings_of_one_key_wins() -> None:
    assert train(None, "training.folds=3", "training.folds=4").training.folds == 4


def test_channels_of_a_file_replace_the_packaged_one(tmp_path: Path) -> None:
    file = a_file(tmp_path, '[image.channels.flair]\ndescription = "flair"\n[image.channels.t1]\nmodality = "MR"\n')
    assert list(train(file).image.channels) == ["flair", "t1"]


def test_set_changes_one_channel_and_leaves_the_others(tmp_path: Path) -> None:
    file = a_file(tmp_path, '[image.channels.flair]\ndescription = "flair"\n[image.channels.t1]\nmodality = "MR"\n')
    channels = train(file, "image.channels.t1.required=true", "image.channels.t1.description=t1").image.channels
    assert list(channels) == ["flair", "t1"]
    assert channels["t1"].model_dump() == {
        "modality": "MR",
        "description": "t1",
        "required": True,
        "min_slices": 2,
        **dict.fromkeys(("kernel", "plane", "contrast"), ""),
        **dict.fromkeys(("max_slices", "max_spacing_mm", "max_thickness_mm")),
        "prefer": (),
    }
    assert channels["flair"].required is False


def test_channels_that_set_names_replace_the_packaged_one_as_those_of_a_file_do(tmp_path: Path) -> None:
    file = a_file(tmp_path, '[image.channels.flair]\ndescription = "flair"\n[image.channels.t1]\nmodality = "MR"\n')
    named = train(None, "image.channels.flair.description=flair", "image.channels.t1.modality=MR")
    assert named.image.channels == train(file).image.channels
    demo = load_config(DemoConfig, "demo", overrides=["train.image.channels.t1.modality=MR"])
    assert list(demo.train.image.channels) == ["t1"]


def test_set_may_change_the_packaged_channel_and_keep_it_beside_another() -> None:
    packaged = train().image.channels["image"]
    channels = train(None, "image.channels.image.required=true", "training.folds=3").image.channels
    assert channels == {"image": packaged.model_copy(update={"required": True})}
    both = train(None, "image.channels.image.required=true", "image.channels.t1.modality=MR").image.channels
    assert list(both) == ["image", "t1"]
    demo = load_config(DemoConfig, "demo", overrides=["train.image.channels.ct.min_slices=5"])
    assert demo.train.image.channels["ct"].modality == "CT", "what else the packaged table says stays"


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (
            'plane="axail"',
            "[image.channels.t1] plane: Input should be '', 'axial', 'coronal' or 'sagittal', got 'axail'",
        ),
        ("contrast=true", "[image.channels.t1] contrast: Input should be '', 'yes' or 'no', got True"),
        ('prefer=["thin"]', "'most_slices', 'thinnest', 'closest_slices', 'earliest' or 'latest', got 'thin'"),
        ("kernal='B'", "[image.channels.t1] has no key 'kernal'; did you mean 'kernel'?"),
        ("kernel='('", "[image.channels.t1] kernel: not a regular expression"),
    ],
)
def test_a_wrong_rule_of_a_channel_is_answered_with_the_choices(rule: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        train(None, f"image.channels.t1.{rule}")
    assert says in str(caught.value)


def test_a_metric_of_a_policy_that_does_not_exist_is_answered_with_the_nearest_or_all() -> None:
    with pytest.raises(
        ConfigError, match=r"with --set: \[policy.least\] takes no key 'acuracy'; did you mean 'accuracy'\?$"
    ):
        train(None, "policy.least.acuracy=0.7")
    with pytest.raises(
        ConfigError, match=r"\[policy.gap\] takes no key 'x': Input should be 'auroc_gap', .*'brier_gap'$"
    ):
        train(None, "policy.gap.x=0.7")


def test_set_of_all_channels_replaces_them(tmp_path: Path) -> None:
    channels = train(None, 'image.channels={ct = {modality = "CT"}}').image.channels
    assert {name: channel.modality for name, channel in channels.items()} == {"ct": "CT"}


def test_merging_changes_neither_table() -> None:
    under: dict[str, Any] = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    over: dict[str, Any] = {"a": {"c": {"d": 4}}, "e": {"f": 5}}
    assert merge(under, over) == {"a": {"b": 1, "c": {"d": 4}}, "e": {"f": 5}}
    assert under == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert over == {"a": {"c": {"d": 4}}, "e": {"f": 5}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", 3),
        ("a.b = 3", 3),
        ("a.b=1e-3", 0.001),
        ("a.b=true", True),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b='3'", "3"),
        ("a.b=cuda:1", "cuda:1"),
        ("a.b=spiculation>=3", "spiculation>=3"),
        ("a.b=", ""),
        ("a.b=two words", "two words"),
    ],
)
def test_a_value_is_toml_and_a_bare_word_a_string(text: str, value: object) -> None:
    assert parse_override(text) == {"a": {"b": value}}


def test_a_quoted_key_of_set_may_hold_dots_and_equals_signs() -> None:
    assert parse_override('policy.least."auroc[grade>=3]"=0.8') == {"policy": {"least": {"auroc[grade>=3]": 0.8}}}
    assert train(None, 'policy.gap."accuracy_gap[size.mm]"=0.2').policy.gap == {"accuracy_gap[size.mm]": 0.2}
    with pytest.raises(ConfigError, match="is no line of TOML, which a quoted key wants"):
        parse_override('policy.least."auroc=0.8')


@pytest.mark.parametrize("text", ["training.folds", "=3", " = 3", ""])
def test_set_without_key_or_value_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--set takes key=value, e\.g\. training\.folds=3; got "):
        parse_override(text)


# --- what is wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("image.spacing=[1, 1, 1]", r"\[image\] has no key 'spacing'; did you mean 'spacing_mm'\?"),
        ("trainin.folds=3", r"has no key 'trainin'; did you mean 'training'\?"),
        ("tracking.qqqq=1", r"\[tracking\] has no key 'qqqq'; it has enabled, experiment, uri"),
        (
            "image.channels.image.modalty=CT",
            r"\[image\.channels\.image\] has no key 'modalty'; did you mean 'modality'",
        ),
        ("training.folds=1", r"\[training\] folds: .*greater than or equal to 2, got 1"),
        ("training.arms=[]", r"\[training\] arms: .*at least 1 item"),
        ('training.arms=["sound"]', r"\[training\.arms\] 0: .*got 'sound'"),
        ("training=3", r"training: .*got 3"),
        ("image.channels={}", r"\[image\] channels: .*at least 1 item"),
        ("image.window=[5, 5]", r"\[image\] window: .*the lowest value comes first"),
        ("image.channels.image.description=(", r"description: .*not a regular expression"),
        ("evaluation.confidence=1", r"\[evaluation\] confidence: .*less than 1"),
        ("evaluation.confidence=0", r"\[evaluation\] confidence: .*greater than 0"),
        ("evaluation.bootstrap_samples=99", r"bootstrap_samples: .*greater than or equal to 100"),
        ("training.tuning_fraction=0.5", r"tuning_fraction: .*less than 0\.5"),
        ("training.tuning_fraction=0", r"tuning_fraction: .*greater than 0"),
        ("training.learning_rate=nan", r"learning_rate: .*finite number"),
        ("training.learning_curve=[0.5, 1.0]", r"\[training\.learning_curve\] 1: .*less than 1, got 1"),
        ("training.learning_curve=[0.0, 0.5]", r"\[training\.learning_curve\] 0: .*greater than 0, got 0"),
        (
            "training.learning_curve=[0.5, 0.25]",
            r"learning_curve: .*larger than the one before it, got \[0\.5",
        ),
        ("training.learning_curve=[0.5, 0.5]", r"learning_curve: .*larger than the one before it"),
        ("intended_use=", r"intended_use: .*at least 1 character"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_the_way_out(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        train(None, override)
    assert str(caught.value).startswith("train.toml with --set: ")
    assert "\n" not in str(caught.value)


def test_a_fault_in_a_file_is_said_of_that_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^mine\.toml: \[training\] has no key 'fold'; did you mean 'folds'\?$"):
        train(a_file(tmp_path, "[training]\nfold = 3\n"))
    with pytest.raises(ConfigError, match=r"^a with b\.toml: \[training\]"):
        train(a_file(tmp_path, "[training]\nfold = 3\n", name="a with b.toml"))


def test_windows_of_a_note_share_half_a_window_at_most() -> None:
    assert train(None, "text.window=9", "text.overlap=4").text.overlap == 4
    with pytest.raises(ConfigError, match=r"\[?text\]?.overlap.*half a window at most, here 4 tokens, got 5"):
        train(None, "text.window=9", "text.overlap=5")


def test_a_file_that_is_not_toml_not_text_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.toml is not valid TOML: .*line 1"):
        train(a_file(tmp_path, "[training\n"))
    (tmp_path / "latin.toml").write_bytes(b'intended_use = "\xe4"\n')
    with pytest.raises(ConfigError, match=r"latin\.toml is not valid TOML"):
        train(tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match=r"cannot read absent\.toml: No such file") as caught:
        train(tmp_path / "MUSTERMANN" / "absent.toml")
    assert "MUSTERMANN" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        train(tmp_path)


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = packaged_defaults("score")
    del tables["explain"]["steps"]  # type: ignore[attr-defined]
    monkeypatch.setattr("medmllm.config.packaged_defaults", lambda verb: tables)
    with pytest.raises(ConfigError, match=r"^score\.toml: \[explain\] lacks the key 'steps'$"):
        load_config(ScoreConfig, "score")
    monkeypatch.setattr("medmllm.config.packaged_defaults", lambda verb: {})
    with pytest.raises(ConfigError, match=r"^score\.toml: lacks the key 'batch_size'$"):
        load_config(ScoreConfig, "score")


def test_a_list_that_is_too_short_is_told_how_many_values_it_wants() -> None:
    for given, wanted in (("image.size=[8]", "[image] size: 3 values, got [8]"),
                          ("image.window=[]", "[image] window: 2 values, got []")):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            load_config(TrainConfig, "train", overrides=[given])
        assert str(caught.value) == f"train.toml with --set: {wanted}"


def test_an_unknown_key_deep_within_the_demo_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"\[train\.model\] has no key 'dropuot'; did you mean 'dropout'\?"):
        load_config(DemoConfig, "demo", overrides=["train.model.dropuot=0.2"])
