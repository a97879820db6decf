"""Every error medmllm raises on purpose, in one tree.

    MedmllmError
    ├── MisuseError               the command was given something it cannot use: exit code 2
    │   ├── ConfigError           a key or value in a TOML file or --set
    │   ├── LabelError            the label table, the target column or its expression
    │   └── SplitError            too few patients, one class only, a split file that does not fit
    │       └── LeakageError      a patient, the same pixels or the same note on two sides of a fold
    ├── IngestError               a file or series cannot be read as what it claims to be
    │   ├── DicomError
    │   ├── NiftiError
    │   ├── NoteError
    │   └── RecordingError
    ├── GeometryError             voxels cannot be placed in the patient
    ├── ContractError             a study does not match what the model was trained on
    ├── PackageError              a model folder is incomplete, changed or from another version
    ├── EvaluationError           predictions and targets do not fit together, or are not finite
    └── AttributionError          an explanation could not be computed to its stated accuracy

Each carries a `code` (snake_case, stable: it is what a ledger row holds and what a data manager
filters on) and says whether the same study may succeed when tried again. A message names file or
key, value, bound and the way out, and never holds a patient's name, number or note text.
"""

from typing import ClassVar


class MedmllmError(Exception):
    """The root of the tree: catch this to catch everything medmllm raises on purpose.

    Args:
        message: What went wrong, where, the value, the bound, the way out.
        code: A stable snake_case word for tables; the class has a default.
        retryable: True when the same input may succeed later (a network drive gone, no memory).
    """

    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, *, code: str | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.retryable = retryable

    @property
    def reason(self) -> str:
        """The message with every note added on the way up, on one line."""
        parts = [str(self.args[0]), *getattr(self, "__notes__", [])]
        return " ".join(" ".join(parts).split())


class MisuseError(MedmllmError):
    """The command was given something it cannot use (exit code 2)."""

    default_code = "misuse"


class ConfigError(MisuseError):
    """A key or value of a configuration is wrong."""

    default_code = "bad_config"


class LabelError(MisuseError):
    """The label table or the target cannot be used."""

    default_code = "bad_labels"


class SplitError(MisuseError):
    """The cohort cannot be split as asked."""

    default_code = "bad_split"


class LeakageError(SplitError):
    """Two parts of a fold share what the model should not have seen."""

    default_code = "leaking_split"


class IngestError(MedmllmError):
    """A file or series cannot be read as what it claims to be."""

    default_code = "unreadable"


class DicomError(IngestError):
    """A DICOM file or series is damaged, unsupported or not an image."""

    default_code = "dicom_unreadable"


class NiftiError(IngestError):
    """A NIfTI file is damaged, unsupported or not a 3D volume."""

    default_code = "nifti_unreadable"


class NoteError(IngestError):
    """A note cannot be read as text."""

    default_code = "note_unreadable"


class RecordingError(IngestError):
    """A recording cannot be read as sound."""

    default_code = "recording_unreadable"


class GeometryError(MedmllmError):
    """Voxels cannot be placed in the patient."""

    default_code = "bad_geometry"


class ContractError(MedmllmError):
    """A study does not match what the model was trained on."""

    default_code = "contract_mismatch"


class PackageError(MedmllmError):
    """A model folder is incomplete, was changed, or is from another version."""

    default_code = "bad_model_package"


class EvaluationError(MedmllmError):
    """Predictions and targets do not fit together, or are not finite."""

    default_code = "cannot_evaluate"


class AttributionError(MedmllmError):
    """An explanation could not be computed to its stated accuracy."""

    default_code = "attribution_failed"
