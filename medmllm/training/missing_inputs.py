"""Say of how many studies a model sees less than it could: a rule that fits few series shows nowhere else.

cohort -> remarks
"""

from collections.abc import Iterator, Mapping, Sequence

from medmllm.documents import Channel
from medmllm.training.cohort import Cohort


def remark_missing(cohort: Cohort, channels: Mapping[str, Channel]) -> Iterator[str]:
    """Yield how many studies are read without an image, a channel or a note that others of the cohort have.

    Args:
        cohort: What was read.
        channels: Of the settings, in order.
    """
    n = len(cohort.members)
    present = [member.sample.channel_present for member in cohort.members]
    bare = sum(not any(own) for own in present)
    if 0 < bare < n:
        yield (
            f"{bare} of {n} studies are read without an image: no series of theirs fits a channel of [image.channels]. "
            f"`medmllm select` tells why, study by study; a lone slice wants min_slices = 1."
        )
    for name, lacking in _lacking(present, list(channels)).items():
        if len(channels) > 1 and 0 < lacking < n - bare:
            yield f"Channel '{name}': {lacking} of the {n - bare} studies with an image lack it."
    mute = sum(member.note is None for member in cohort.members)
    if 0 < mute < n:
        yield f"{mute} of {n} studies are read without a note."


def _lacking(present: Sequence[tuple[bool, ...]], channels: Sequence[str]) -> dict[str, int]:
    with_image = [own for own in present if any(own)]
    return {name: sum(not own[k] for own in with_image) for k, name in enumerate(channels)}
