"""Tell the settings of a run to others: as options that give them again, and without the folders that they name.

    settings -> --set options; TrainConfig -> the same without paths -> provenance, MLflow, model packages
    settings of several runs -> those that differ

A path may hold the name of a user, a project or a patient, and an address a password: RUN/settings.json alone
keeps both.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medmllm.config import TrainConfig, flatten, load_config
from medmllm.documents import Document, PreprocessingContract

FOLDER, CACHE, URI = "FOLDER", "CACHE", "URI"
"""What stands for a folder that holds what is named, for training.cache, and for tracking.uri."""


def without_paths(config: TrainConfig) -> TrainConfig:
    """Return settings in which files and folders go by their own name, and an address by its role."""
    model = config.model.model_copy(update={"image_weights": _own_name(config.model.image_weights)})
    text = config.text.model_copy(update={"encoder": encoder_name(config.text.encoder)})
    training = config.training.model_copy(update={"cache": CACHE if config.training.cache else ""})
    tracking = config.tracking.model_copy(update={"uri": URI if config.tracking.uri else ""})
    return config.model_copy(update={"model": model, "text": text, "training": training, "tracking": tracking})


def differing_settings(
    runs: Sequence[TrainConfig], leave_out: Mapping[str, bool | set[str]]
) -> dict[str, tuple[str, ...]]:
    """Return the settings that differ between runs, by dotted key, with the value in each run; folders by own names.

    Args:
        runs: Their settings.
        leave_out: What may differ: tables (True), or keys of a table.
    """
    tables, told = ([_by_key(one, leave_out) for one in each] for each in (runs, map(without_paths, runs)))
    keys = dict.fromkeys(key for table in tables for key in table)
    differing = [key for key in keys if len({str(table.get(key, "not set")) for table in tables}) > 1]
    return {key: tuple(str(table.get(key, "not set")) for table in told) for key in differing}


def _by_key(settings: TrainConfig, leave_out: Mapping[str, bool | set[str]]) -> dict[str, object]:
    return flatten(settings.model_dump(mode="json", exclude=dict(leave_out)))


def told_contract(contract: PreprocessingContract) -> PreprocessingContract:
    """Return a contract as a package holds it: its fingerprint does not depend on where the encoder lay."""
    if contract.text is None:
        return contract
    text = contract.text.model_copy(update={"encoder": encoder_name(contract.text.encoder)})
    return contract.model_copy(update={"text": text})


def encoder_name(encoder: str) -> str:
    """Return what a text encoder is called: a hub name as it is, a local folder without those that hold it.

    >>> encoder_name("emilyalsentzer/Bio_ClinicalBERT"), encoder_name("/home/someone/bert")
    ('emilyalsentzer/Bio_ClinicalBERT', 'FOLDER/bert')
    """
    path = Path(encoder)
    return _own_name(encoder) if path.is_absolute() or path.is_dir() else encoder


def _own_name(path: str) -> str:
    return f"{FOLDER}/{Path(path).name}" if path else ""


def train_command(config: TrainConfig, targets: Sequence[str], *, labels: bool, splits: bool) -> str:
    """Return the command that gives a training again, paths replaced by their roles.

    Args:
        config: Resolved settings: what differs from the packaged ones follows as options, wherever it was set.
        targets: As given.
        labels: Whether a label table was named beside the studies.
        splits: Whether a file of folds was.
    """
    given = f"--studies STUDIES{' --labels LABELS' if labels else ''}{' --splits SPLITS' if splits else ''}"
    asked = shlex.join(word for target in targets for word in ("--target", target))
    return command(f"medmllm train {given} {asked} --out RUN", without_paths(config), "train")


def command(words: str, settings: Document, verb: str) -> str:
    """Return the words of a command, paths replaced by their roles, with the settings that give its result again."""
    options = shlex.join(set_options(settings, verb))
    return f"{words} {options}" if options else words


def set_options(settings: Document, verb: str) -> list[str]:
    """Return the `--set` options that turn the packaged settings of a verb into these.

    >>> from medmllm.config import ScoreConfig
    >>> set_options(load_config(ScoreConfig, "score", overrides=["device=cpu", "workers=3"]), "score")
    ['--set', 'workers=3', '--set', 'device="cpu"']
    """
    found = _differing(settings, load_config(type(settings), verb))
    return [word for key, value in found for word in ("--set", f"{key}={value}")]


def _differing(own: Document, packaged: Document, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted key and TOML value of each setting that differs; a table with keys of a user's own is one."""
    values, before = (one.model_dump(mode="json", exclude_none=True) for one in (own, packaged))
    for name in type(own).model_fields:
        inner, inner_before = getattr(own, name), getattr(packaged, name)
        if isinstance(inner, Document) and isinstance(inner_before, Document):
            yield from _differing(inner, inner_before, f"{prefix}{name}.")
        elif (value := _toml(values[name])) != _toml(before[name]):  # as text: the order of channels counts
            yield f"{prefix}{name}", value


def _toml(value: object) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_toml(key)} = {_toml(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")  # the one escape that JSON lacks
    return str(value).lower() if isinstance(value, bool) else repr(value)
