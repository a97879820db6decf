"""Say that a package holds words of the training notes: whoever hands it on should know before, not after.

cohort, arms, [text] encoder -> remark
"""

from collections.abc import Iterator, Sequence

from medmllm.preprocessing.text import TINY
from medmllm.training.cohort import Cohort
from medmllm.training_config import Arm

READS_NOTES = frozenset({"text", "fused"})


def remark_learnt_words(cohort: Cohort, arms: Sequence[Arm], encoder: str) -> Iterator[str]:
    """Yield what the vocabulary that `tiny` learns means for handing a package on; nothing where no note is read.

    Args:
        cohort: What was read.
        arms: That are trained.
        encoder: Of [text].
    """
    if encoder == TINY and cohort.has_notes and READS_NOTES.intersection(arms):
        yield (
            "The model package, and its copy in MLflow, hold word pieces of the training notes, whole words that two "
            "or more patients' notes share among them. Names, dates and numbers that are announced, or that headers, "
            "table or folders tell, were left out; a name that nothing tells may be there: before the package leaves "
            "the house, read its tokenizer/fold_*/tokenizer.json, or train with a pretrained [text] encoder, whose "
            "vocabulary is fixed."
        )
