"""`medmllm select`: which series every study would use, and why the others lost; in words, as a table and as JSON."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from medmllm.cli import app
from medmllm.csv_tables import read_table
from medmllm.documents import Channel, Column, TableContract
from medmllm.errors import MisuseError, PackageError
from medmllm.ingest.synthetic_dicom import Acquisition
from medmllm.model_documents import ModelCard
from medmllm.pipelines import select
from medmllm.reporting.selection import SelectionDocument
from medmllm.table_rows import SelectionRow
from tests.factories import a_volume, edit_dicom, write_dicom_study, write_nifti_study

EXAMPLE = Path(__file__).resolve().parents[2] / "data_schemas" / "examples" / "model.valid.json"
RULES = """
[image.channels.lung]
modality = "CT"
kernel = "^B[67]"
required = true
prefer = ["closest_slices"]
[image.channels.soft]
modality = "CT"
kernel = "^B[23]"
description = "chest"
"""


def add_ct(folder: Path, patient: str, series: str, kernel: str, spacing: float = 4.0, **also: object) -> None:
    volume = a_volume(spacing_mm=(2.0, 3.0, spacing))
    write_dicom_study(
        folder / series, volume, patient=patient, series=series, note=None, acquisition=Acquisition(description=series),
        **also,  # type: ignore[arg-type]
    )  # fmt: skip
    edit_dicom(folder / series, ConvolutionKernel=kernel)


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """HUBER complete by preference, KOCH ambiguous, MEIER without a lung series that can be read, a NIfTI study."""
    root = tmp_path / "studies"
    add_ct(root / "1", "HUBER", "chest thick", "B70f", 5.0)
    add_ct(root / "1", "HUBER", "chest thin", "B60f", 1.5)
    add_ct(root / "1", "HUBER", "chest soft for HUBER", "B30f")
    add_ct(root / "2", "KOCH", "chest one", "B70f")
    add_ct(root / "2", "KOCH", "chest two", "B70f")
    add_ct(root / "3", "MEIER", "chest cut", "B70f", leave_out=[1])
    write_nifti_study(root / "4", {"ct": a_volume()}, note=None)
    (tmp_path / "mine.toml").write_text(RULES)
    return root


def command(studies: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["select", str(studies), "--config", str(studies.parent / "mine.toml"), *words])


def study_lines(text: str) -> list[list[str]]:
    """The lines of each study shown, the summary last."""
    return [block.splitlines() for block in text.strip().split("\n\n")]


def test_one_line_tells_which_series_is_used_and_one_each_why_the_others_lost(studies: Path) -> None:
    result = command(studies)
    assert result.exit_code == 3
    blocks = study_lines(result.stdout)
    huber = next(block for block in blocks if block[0].endswith(": complete"))
    used, *lost = [line.split() for line in huber[1:4]]
    assert used[:2] == ["lung", "used"]
    assert huber[1].endswith("CT, 6x5x4, 2.00x3.00x1.50 mm, axial, kernel B60f, contrast no, 1.5 mm thick: "
                             "by closest_slices")  # fmt: skip
    assert sorted(" ".join(words).partition("thick: ")[2] for words in lost) == [
        "kernel B30f does not match '^B[67]'",
        f"lost to {used[2]} by closest_slices (5.00 mm between slices against 1.50 mm between slices)",
    ]
    koch = next(block for block in blocks if block[0].endswith(": ambiguous (ambiguous_series)"))
    assert [line.split()[:2] for line in koch[1:]] == [
        ["lung", "refused"], ["lung", "refused"], ["soft", "missing"], ["soft", "lost"], ["soft", "lost"],
    ]  # fmt: skip
    assert koch[1].endswith("closest_slices decides nothing, as all are alike")
    refused = [block for block in blocks if block[0].endswith(": refused (no_matching_series)")]
    assert sorted(" ".join(block[1].split()[:2]) for block in refused) == ["lung missing", "lung refused"]
    cut = next(block for block in refused if "lung  refused" in block[1])
    assert "missing_slice: slices 0 and 1 of 3 lie 8.00 mm apart" in cut[1]


def test_the_summary_counts_studies_and_channels_and_hints_at_what_to_do(studies: Path) -> None:
    assert study_lines(command(studies).stdout)[-1] == [
        "4 studies: 1 complete, 0 lack a channel, 0 without any series, 1 ambiguous, 2 refused",
        "  lung: used in 1, ambiguous_series in 1, no_matching_series in 2",
        "  soft: used in 1, masked in 3",
        "  series that fit and cannot be read: missing_slice 1",
        "  hint: ambiguous: narrow the rules of [image.channels], or say what decides: prefer = [...]",
        "  hint: a plain NIfTI file does not say its modality: set nifti_modality to what it is, or leave modality out",
        "A run would refuse 3 of 4 studies for their series.",
    ]


def test_a_channel_that_no_study_fills_is_pointed_at(studies: Path) -> None:
    (studies.parent / "mine.toml").write_text('[image.channels.pet]\nmodality = "PT"\n')
    result = command(studies)
    assert "  hint: no study gives channel 'pet' a series: are its rules right?" in result.stdout
    assert "4 studies: 0 complete, 0 lack a channel, 4 without any series" in result.stdout
    assert ": without a series (nothing_to_read)" in result.stdout
    assert result.exit_code == 3
    for folder in "1234":
        (studies / folder / "note.txt").write_text("HISTORY: Made up.")
    assert command(studies).exit_code == 0


def test_the_way_out_for_nifti_is_not_offered_for_dicom_without_a_modality(tmp_path: Path) -> None:
    write_dicom_study(tmp_path)
    edit_dicom(tmp_path, Modality="")
    result = CliRunner().invoke(app, ["select", str(tmp_path), "--set", "image.channels.image.modality=CT"])
    assert "does not tell its modality" in result.stdout
    assert "NIfTI" not in result.stdout


@pytest.mark.parametrize(
    ("only", "shown"), [("all", 4), ("incomplete", 3), ("ambiguous", 1), ("refused", 3)]
)  # fmt: skip
def test_only_some_studies_are_shown_and_all_are_counted(studies: Path, only: str, shown: int) -> None:
    blocks = study_lines(command(studies, "--only", only).stdout)
    assert len(blocks) == shown + 1
    assert blocks[-1][0].startswith("4 studies")


def test_descriptions_are_shown_only_when_asked_for(studies: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words in ([], ["--json"], ["--out", str(out)]):
        assert "HUBER" not in command(studies, *words).output
    assert "'chest soft for HUBER': by" not in command(studies, "--show-descriptions").stdout
    assert ", 'chest soft for HUBER'" in command(studies, "--show-descriptions").stdout
    said = json.loads(command(studies, "--show-descriptions", "--json").stdout)
    assert "chest soft for HUBER" in said["descriptions"].values()
    assert command(studies, "--show-descriptions", "--out", str(out), "--overwrite").exit_code == 3
    assert "HUBER" not in (out / "selection.csv").read_text()


def test_a_b_value_is_shown_without_descriptions_and_chosen_by_its_number(tmp_path: Path) -> None:
    for value in (0, 400, 1000):
        add_ct(tmp_path / "in" / str(value), "KOCH", "dwi of KOCH", "B30f")
        folder = tmp_path / "in" / str(value) / "dwi of KOCH"
        edit_dicom(folder, Modality="MR", DiffusionBValue=value)
        for image in range(4):
            edit_dicom(folder, only=[image], SOPInstanceUID=f"1.2.{value}.{image}")
    rule = "[image.channels.dwi]\nmodality = 'MR'\ndescription = 'dwi.*DiffusionBValue=1000\\b'\n"
    (tmp_path / "mine.toml").write_text(rule)
    result = command(tmp_path / "in")
    shown = {line.split()[1]: line for line in result.stdout.splitlines() if "se-" in line and "DiffusionB" in line}
    assert "DiffusionBValue=1000" in shown["used"]
    assert "KOCH" not in result.output
    assert result.exit_code == 0


def test_the_table_and_the_json_hold_the_same_rows_of_all_studies(studies: Path, tmp_path: Path) -> None:
    assert command(studies, "--out", str(tmp_path / "out"), "--only", "ambiguous").exit_code == 3
    rows = read_table(tmp_path / "out" / "selection.csv", SelectionRow)
    result = command(studies, "--json")
    said = SelectionDocument.model_validate_json(result.stdout)
    assert tuple(rows) == said.rows
    assert (said.studies, said.complete, said.ambiguous, said.refused, said.would_be_refused) == (4, 1, 1, 2, 3)
    assert said.descriptions is None
    outcomes = sorted((row.channel, row.outcome) for row in rows)
    assert outcomes.count(("lung", "used")) == outcomes.count(("soft", "used")) == 1
    assert outcomes.count(("lung", "missing")) == 1
    assert outcomes.count(("soft", "missing")) == 3
    assert all((row.series_key is None) == (row.outcome == "missing") for row in rows)
    assert result.exit_code == 3


def test_a_table_is_written_over_only_when_asked(studies: Path, tmp_path: Path) -> None:
    words = ["--out", str(tmp_path / "out")]
    assert command(studies, *words).exit_code == 3
    again = command(studies, *words)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "already holds selection.csv" in again.stderr
    assert command(studies, "--out", str(studies / "out")).exit_code == 2, "not among the studies"


def test_what_would_go_well_is_exit_code_0(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "studies")
    result = CliRunner().invoke(app, ["select", str(tmp_path / "studies")])
    assert result.exit_code == 0
    assert "1 studies: 1 complete" in result.stdout
    assert "hint" not in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "image.channels.lung.plane=axail"], "'axial', 'coronal' or 'sagittal', got 'axail'"),
        (["--set", "image.channels.lung.contrast=maybe"], "'yes' or 'no', got 'maybe'"),
        (["--model", "run/model"], "--model brings its own channels"),
        (["--only", "some"], "'some' is not one of"),
    ],
)
def test_a_wrong_word_is_answered_with_the_choices(studies: Path, words: list[str], says: str) -> None:
    result = command(studies, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in " ".join(result.stderr.replace("│", " ").split())


def test_a_study_without_series_counts_by_its_table_row_and_recordings_where_these_are_read(tmp_path: Path) -> None:
    root = tmp_path / "studies"
    for name in ("row", "sound", "none"):
        write_nifti_study(root / name, {"other": a_volume()}, note=None)
    (root / "sound" / "heart.wav").write_bytes(b"")
    (tmp_path / "facts.csv").write_text("study_id,age\nrow,60\nsound,na\n")
    words = ["--set", 'image.channels.image.modality="CT"']

    def refused(*more: str) -> int:
        result = CliRunner().invoke(app, ["select", str(root), *words, "--json", *more])
        return SelectionDocument.model_validate_json(result.stdout).would_be_refused

    row = ("--set", 'table.columns=["age"]', "--table", str(tmp_path / "facts.csv"))
    assert [refused(), refused(*row), refused(*row, "--set", "recording.enabled=true")] == [3, 2, 1]


# --- the channels of a model ---------------------------------------------------------------


def a_model(folder: Path, **channels: Channel) -> Path:
    """Write a card whose contract has these channels; without any, it reads no image."""
    card = ModelCard.model_validate_json(EXAMPLE.read_bytes())
    image = card.contract.image.model_copy(update={"channels": channels}) if channels and card.contract.image else None
    contract = card.contract.model_copy(update={"image": image})
    folder.mkdir()
    changed = card.model_copy(update={"contract": contract, "contract_fingerprint": contract.fingerprint})
    changed.write(folder / "model.json")
    return folder


def test_the_channels_of_a_model_are_those_of_its_contract(studies: Path, tmp_path: Path) -> None:
    model = a_model(tmp_path / "model", soft=Channel(kernel="^B30", contrast="no"))
    result = CliRunner().invoke(app, ["select", str(studies), "--model", str(model)])
    assert "  soft: used in 1, masked in 3" in result.stdout
    assert result.exit_code == 3


def test_a_note_counts_only_for_a_model_that_reads_notes(studies: Path, tmp_path: Path) -> None:
    (studies / "4" / "note.txt").write_text("HISTORY: Made up.")
    said = []
    for name in ("reads", "does_not"):
        folder = a_model(tmp_path / name, soft=Channel(kernel="^B30"))
        card = ModelCard.read(folder / "model.json")
        contract = card.contract.model_copy(update={"text": card.contract.text if name == "reads" else None})
        changed = card.model_copy(update={"contract": contract, "contract_fingerprint": contract.fingerprint})
        changed.write(folder / "model.json")
        result = CliRunner().invoke(app, ["select", str(studies), "--model", str(folder), "--json"])
        said.append(SelectionDocument.model_validate_json(result.stdout).would_be_refused)
    assert said == [2, 3]


def test_a_table_that_does_not_fit_the_model_or_the_studies_is_refused_as_scoring_does(
    studies: Path, tmp_path: Path
) -> None:
    folder = a_model(tmp_path / "model", soft=Channel(kernel="^B30"))
    card = ModelCard.read(folder / "model.json")
    ages = TableContract(
        columns=(Column(name="age", kind="number", accepted=None),), open_ended="refuse", required=False
    )
    contract = card.contract.model_copy(update={"table": ages})
    changed = card.model_copy(update={"contract": contract, "contract_fingerprint": contract.fingerprint})
    changed.write(folder / "model.json")
    for text, said in (
        ("study_id,ages\n4,60\n", "no column 'age'; did you mean 'ages'"),
        ("study_id,age\n9,60\n", "no row of the --table, of 1, fits any of the 4 studies"),
    ):
        (tmp_path / "facts.csv").write_text(text)
        with pytest.raises(MisuseError, match=said):
            select.run(studies, model=folder, table=tmp_path / "facts.csv")
    (tmp_path / "facts.csv").write_text("study_id,age\n4,60\n")
    found = select.run(studies, model=folder, table=tmp_path / "facts.csv")
    assert found.refused == select.run(studies, model=folder).refused - 1  # its row is read in place of an image


def test_a_model_that_is_none_was_changed_or_reads_no_image_is_refused(studies: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"no model\.json"):
        select.run(studies, model=tmp_path)
    with pytest.raises(MisuseError, match="reads no image"):
        select.run(studies, model=a_model(tmp_path / "text"))
    changed = a_model(tmp_path / "changed", ct=Channel(plane="axial"))
    card = (changed / "model.json").read_text()
    (changed / "model.json").write_text(card.replace('"plane": "axial"', '"plane": "coronal"'))
    with pytest.raises(PackageError, match="was changed after training"):
        select.run(studies, model=changed)
    with pytest.raises(MisuseError, match="no channels"):
        select.run(studies)


def test_the_real_glioma_cohort_lacks_the_sequences_that_its_files_lack(shared: Path) -> None:
    root = shared / "data" / "brain_mr_lgg" / "studies"
    channels = ("flair", "t1_pre", "t1_post")
    words = [word for name in channels for word in ("--set", f"image.channels.{name}.description=^{name}$")]
    words += ["--set", 'image.channels.image.description="none at all"', "--json"]
    result = CliRunner().invoke(app, ["select", str(root), *words])
    said = SelectionDocument.model_validate_json(result.stdout)
    used = [row.channel for row in said.rows if row.outcome == "used"]
    assert {name: used.count(name) for name in channels} == {
        name: len(list(root.glob(f"*/{name}.nii.gz"))) for name in channels
    }
    assert (said.studies, said.would_be_refused, result.exit_code) == (76, 0, 0)
