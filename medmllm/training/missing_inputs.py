"""Say of how many studies a model sees less than it could: a rule that fits few series shows nowhere else.

cohort -> remarks
"""

from collections.abc import Iterator, Mapping, Sequence

from medmllm.documents import Channel
from medmllm.records import MODALITIES
from medmllm.training.cohort import Cohort
from medmllm.training_config import Arm


def remark_missing(cohort: Cohort, channels: Mapping[str, Channel], arms: Sequence[Arm]) -> Iterator[str]:
    """Yield how many studies are read without what others of the cohort have, of each modality that an arm reads.

    Args:
        cohort: What was read.
        channels: Of the settings, in order.
        arms: What is trained.
    """
    n, members = len(cohort.members), cohort.members
    read = set(MODALITIES if "fused" in arms else arms)
    if "image" in read:
        yield from _remark_images(cohort, channels)
    without = {
        "text": ("a note", sum(member.note is None for member in members)),
        "recording": ("a recording", sum(member.sample.recording is None for member in members)),
        "table": ("a value in [table] columns", sum(member.values is None for member in members)),
    }
    for modality, (what, lacking) in without.items():
        if modality in read and 0 < lacking < n:
            yield f"{_some(lacking, n)} read without {what}."


def _remark_images(cohort: Cohort, channels: Mapping[str, Channel]) -> Iterator[str]:
    n = len(cohort.members)
    present = [member.sample.channel_present for member in cohort.members]
    bare = sum(not any(own) for own in present)
    if 0 < bare < n:
        yield (
            f"{_some(bare, n)} read without an image: none of {'its' if bare == 1 else 'their'} series fits a channel "
            "of [image.channels]. `medmllm select` tells why, study by study; a lone slice wants min_slices = 1."
        )
    for name, lacking in _lacking(present, list(channels)).items():
        if len(channels) > 1 and 0 < lacking < n - bare:
            lack = "lacks" if lacking == 1 else "lack"
            yield f"Channel '{name}': {lacking} of the {n - bare} studies with an image {lack} it."


def _some(count: int, n: int) -> str:
    return f"{count} of {n} studies {'is' if count == 1 else 'are'}"


def _lacking(present: Sequence[tuple[bool, ...]], channels: Sequence[str]) -> dict[str, int]:
    with_image = [own for own in present if any(own)]
    return {name: sum(not own[k] for own in with_image) for k, name in enumerate(channels)}
