"""Pydantic documents of what a search tried and chose: parts of evaluation.json, and rows of search.csv.

scores of candidates on tuning parts -> ChoiceDocument per arm and fold -> SearchDocument; SearchRow per candidate
"""

from typing import Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from medmllm.documents import Document, Setting


class CandidateDocument(Document):
    """One combination of settings, and how it did on the tuning part of a fold."""

    settings: dict[str, Setting] = Field(min_length=1, description="by name; those that make a difference in the arm")
    score: float | None = Field(description="null: the training diverged, or the score is not defined")

    @property
    def words(self) -> str:
        """The settings as people write them: weight_decay = 0.1, flips = true."""
        return ", ".join(f"{name} = {setting_words(value)}" for name, value in self.settings.items())


class ChoiceDocument(Document):
    """What was tried in one fold of one arm, and which of it was taken."""

    arm: str
    repeat: int = Field(ge=0, description="draw of the folds; the packaged networks are of 0")
    fold: int = Field(ge=0)
    candidates: tuple[CandidateDocument, ...] = Field(min_length=2, description="in the order of the grid")
    chosen: int = Field(ge=0, description="place among them, from 0: the best score, of equal ones the first")

    @field_validator("chosen")
    @classmethod
    def _is_one_of_them(cls, chosen: int, info: ValidationInfo) -> int:
        tried = info.data.get("candidates")  # absent when it is itself wrong
        if tried is not None and chosen >= len(tried):
            raise ValueError(f"there are {len(tried)} candidates")
        return chosen

    @property
    def best(self) -> CandidateDocument:
        """The one that was taken."""
        return self.candidates[self.chosen]


class SearchDocument(Document):
    """Which settings each fold chose by its tuning part; no test part had a say."""

    score: Literal["log_loss", "auroc"] = Field(
        description="log_loss: mean nats after temperature scaling, smaller is better; auroc: larger is better"
    )
    choices: tuple[ChoiceDocument, ...] = Field(min_length=1, description="arm by arm, repeat by repeat, fold by fold")


class SearchRow(Document):
    """search.csv: one row per arm, repeat, fold and candidate."""

    arm: str
    repeat: int = Field(ge=0, description="draw of the folds; the packaged networks are of 0")
    fold: int = Field(ge=0)
    candidate: PositiveInt
    settings: dict[str, str] = Field(
        description="in CSV one column each: settings[weight_decay]; empty where it makes no difference in the arm"
    )
    score: float | None = Field(description="on the tuning part; empty: the training diverged, or it is not defined")
    chosen: bool


def setting_words(value: Setting) -> str:
    """Return a value as a TOML file has it, but for the quotes.

    >>> setting_words(True), setting_words(0.1), setting_words("gated"), setting_words((1.0, 3.0))
    ('true', '0.1', 'gated', '[1, 3]')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(setting_words, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
