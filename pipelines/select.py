"""Show which series every study would give a model's channels, and why the others lost; a dry run, by headers alone.

STUDIES, channels -> index -> selection of each study -> text or JSON; OUT/selection.csv where it is asked for
"""

from dataclasses import dataclass
from pathlib import Path

from medmllm.config import TrainConfig
from medmllm.csv_tables import check_writable, write_table
from medmllm.documents import ImageSettings, TableContract
from medmllm.errors import MisuseError, PackageError
from medmllm.ingest.study_folder import folder_of
from medmllm.ingest.table_inputs import check_columns, has_cell
from medmllm.ingest.tables import read_label_table
from medmllm.model_documents import ModelCard
from medmllm.pipelines.index import read_index
from medmllm.preprocessing.selection import select_series
from medmllm.records import Study
from medmllm.reporting.selection import Only, document, rows, text
from medmllm.table_rows import SelectionRow

CARD = "model.json"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model reads, or would."""

    image: ImageSettings
    note: bool
    recording: bool
    columns: tuple[str, ...]  # of the table
    table: TableContract | None = None  # of a model that has been trained

    def beside_images(self, study: Study) -> bool:
        """Say whether a study has any of it beside images."""
        heard = self.recording and bool(study.recordings)
        return (self.note and bool(study.notes)) or heard or has_cell(study, self.columns)


@dataclass(frozen=True, slots=True)
class SelectResult:
    """What to print, and how many studies a run would refuse."""

    text: str
    studies: int
    refused: int


def run(
    studies: Path,
    *,
    config: TrainConfig | None = None,
    model: Path | None = None,
    table: Path | None = None,
    out: Path | None = None,
    only: Only = "all",
    as_json: bool = False,
    show_descriptions: bool = False,
    overwrite: bool = False,
) -> SelectResult:
    """Choose the series of every study of a folder, as training and scoring would.

    Args:
        studies: Folder of DICOM or NIfTI studies, or a list of them.
        config: Holds the channels, and what else is read; None takes those of `model`.
        model: As written by `medmllm train`: RUN/model.
        table: With the columns that are read; None takes the list of studies, or the table in its folder, if any.
        out: Folder for selection.csv, which has all studies; None writes nothing.
        only: Which studies the text shows.
        as_json: Return a SelectionDocument of all studies in place of the text.
        show_descriptions: Print the series descriptions, which may hold identifiers.
        overwrite: Write over a table that is already there.

    Raises:
        MisuseError: No studies to index, no channels, results already there, the label table cannot be used, or lacks a
            column that the model reads, or fits no study.
        PackageError: As `inputs_of_model`.
    """
    if config is not None:
        reads = Inputs(config.image, True, config.recording.enabled, config.table.columns)
    elif model is not None:
        reads = inputs_of_model(model)
    else:
        raise MisuseError("no channels to choose series for: give settings or a model")
    if out is not None:
        check_writable(out, overwrite=overwrite, marker="selection.csv", studies=folder_of(studies))
    given = read_label_table(table) if table else None
    index = read_index(studies, labels=given)
    if model is not None:
        check_columns(index, reads.table, given=given)  # as scoring does
    selections = [select_series(study, reads.image, reads_more=reads.beside_images(study)) for study in index.studies]
    if out is not None:
        write_table(out / "selection.csv", SelectionRow, (row for one in selections for row in rows(one)))
    shown = (
        document(selections, descriptions=show_descriptions).model_dump_json(indent=2)
        if as_json
        else text(selections, only=only, descriptions=show_descriptions)
    )
    return SelectResult(shown, len(selections), sum(selection.is_refused for selection in selections))


def inputs_of_model(folder: Path) -> Inputs:
    """Return what a model was trained to read.

    Args:
        folder: As written by `medmllm train`: RUN/model.

    Raises:
        PackageError: There is no valid card, or its contract was changed.
        MisuseError: The model reads no image.
    """
    if not (folder / CARD).is_file():
        raise PackageError(f"no {CARD} in the --model folder: give the folder RUN/model that `medmllm train` wrote.")
    card = ModelCard.read(folder / CARD)
    contract = card.contract
    if contract.fingerprint != card.contract_fingerprint:
        raise PackageError(f"{CARD}: the preprocessing contract was changed after training. Restore the package.")
    if contract.image is None:
        raise MisuseError("the model reads no image, so no series are chosen for it")
    columns = () if contract.table is None else tuple(column.name for column in contract.table.columns)
    return Inputs(contract.image, contract.text is not None, contract.recording is not None, columns, contract.table)
