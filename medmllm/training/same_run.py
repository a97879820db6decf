"""Is what is asked for the run that was interrupted: said before a file of that run is written over.

RUN -> nothing, or a refusal: its folders, which a training deletes, are of no run
RUN/settings.json, settings asked for -> nothing, or a refusal that names what differs: before a study is read
RUN/checkpoints, Origin -> nothing, or a refusal: before the split is written

Checkpoints alone do not tell it: under other settings a network may have another name, and find none.
"""

from pathlib import Path

from medmllm.config import TrainConfig
from medmllm.errors import MisuseError, PackageError
from medmllm.told_settings import differing_settings
from medmllm.training.checkpoint import FOLDER, Origin, another_origin, read_origin
from medmllm.training.resuming import UNTRAINED, check_unfinished, trained_folders
from medmllm.training.run import WHOLE
from medmllm.training.split_file import OURS

SETTINGS = "settings.json"
MOST_NAMED = 8  # of the settings that differ


def check_run_folder(out: Path, config: TrainConfig, *, resume: bool, overwrite: bool) -> None:
    """Refuse to train into RUN what does not fit what is there; nothing of it is changed.

    Args:
        out: RUN.
        config: The settings asked for.
        resume: Go on with an interrupted run.
        overwrite: Write over an earlier run.

    Raises:
        MisuseError: Folders that no run wrote, an interrupted run and no word of what to do with it, or other settings.
    """
    check_own_folders(out)
    check_unfinished(out, resume=resume, overwrite=overwrite)
    if resume:
        check_same_settings(out, config)


def check_own_folders(out: Path) -> None:
    """Refuse to write over folders that are named as a run's, where no run has written its settings or split.

    Raises:
        MisuseError: Names the folders.
    """
    taken = [folder.name for folder in trained_folders(out) if folder.exists()]
    if taken and not any((out / name).exists() for name in (SETTINGS, OURS, WHOLE)):
        raise MisuseError(
            f"the output folder holds {', '.join(taken)}, and is no run's: a training would delete "
            f"{'it' if len(taken) == 1 else 'them'}. Choose another --out."
        )


def check_same_settings(out: Path, config: TrainConfig) -> None:
    """Refuse to go on under other settings than those of the interrupted run, but for `UNTRAINED`.

    A run that died before it wrote its settings has trained nothing.

    Args:
        out: RUN.
        config: The settings asked for.

    Raises:
        MisuseError: Names the settings that differ, with both values; folders and addresses by their own names.
    """
    try:
        earlier = TrainConfig.read(out / SETTINGS)
    except PackageError:  # none, or of another version: what it trained is still compared by its digests
        return
    differing = differing_settings([earlier, config], UNTRAINED)
    if not differing:
        return
    told = [_told(key, *values) for key, values in list(differing.items())[:MOST_NAMED]]
    more = f", and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
    raise MisuseError(
        f"cannot resume: the interrupted run has other settings: {'; '.join(told)}{more}. Resume with its settings, "
        f"which stand in {SETTINGS} of its folder, or start anew with --overwrite."
    )


def _told(key: str, before: str, now: str) -> str:
    return f"{key} was {before}, now {now if now != before else 'another of that name'}"


def check_same_origin(out: Path, origin: Origin) -> None:
    """Refuse to go on with checkpoints none of which is of these settings, this split and these studies.

    Smaller trainings and further repeats have splits of their own, so that one file that agrees is enough.

    Raises:
        MisuseError: Says which of the three is another.
    """
    found = [own for path in sorted((out / FOLDER).glob("*.safetensors")) if (own := read_origin(path))]
    names = ("settings", "split", "cohort")
    changed = [name for name in names if getattr(origin, name) not in {getattr(own, name) for own in found}]
    if found and changed:
        raise another_origin(f"the networks in {FOLDER} were", changed)
