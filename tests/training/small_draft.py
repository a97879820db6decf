"""What the studies of a small cohort are read by: a key, a contract of one image and a note, and a quality policy."""

from medmllm.config import QualityConfig, QualityPolicy, load_config
from medmllm.ingest.keys import Keyring
from medmllm.training.cohort import draft_contract
from tests.models.small import IMAGE, TEXT

KEYRING = Keyring(b"a secret of thirty-two bytes ....")
ONE = IMAGE.model_copy(update={"channels": {"image": IMAGE.channels["ct"]}})
DRAFT = draft_contract(ONE, TEXT)
POLICY = load_config(QualityConfig, "quality").quality


def a_policy(**decisions: str) -> QualityPolicy:
    return POLICY.model_copy(update={"decisions": POLICY.decisions.model_copy(update=decisions)})
