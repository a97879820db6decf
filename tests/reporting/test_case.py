"""The case report shows what the documents hold, and says what is missing."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmllm import model_documents, records
from medmllm.errors import MedmllmError
from medmllm.reporting.case import NoteSection, note_sections, write_case_report
from tests.reporting import made_up
from tests.reporting.html_page import Page, picture


def report(tmp_path: Path, *, error: float = 0.004, words=made_up.WORDS, **changes: object) -> Page:
    """Write and read a report with everything in it, but for `changes`."""
    volume, voxel = made_up.phantom("LPS")
    record, document = made_up.explanation(volume, voxel, made_up.attribution_of(volume), words=words, error=error)
    parts: dict[str, object] = {
        "prediction": made_up.prediction(),
        "card": made_up.card(),
        "note": made_up.note(),
        "explanation": record,
        "explanation_document": document,
        "completeness_bound": 0.01,
    }
    write_case_report(tmp_path / "report.html", **(parts | changes))  # type: ignore[arg-type]
    return Page.read(tmp_path / "report.html")


def unexplained(tmp_path: Path, **changes: object) -> Page:
    return report(tmp_path, **({"explanation": None, "explanation_document": None} | changes))


# --- numbers -------------------------------------------------------------------------------


def test_every_number_of_prediction_and_explanation_stands_on_the_page_exactly(tmp_path: Path) -> None:
    page = report(tmp_path)
    shown = {float(value) for value in page.values}
    wanted = {0.8314159, 0.7112, 0.9023, 0.4375}  # probability, range, operating point
    wanted |= {0.625, 0.375, 1.1, 0.7072}  # modality shares and sums
    wanted |= {1.5958, -0.2042, 0.004 * 1.8, 0.004, 0.01}  # logits, left over, completeness error and its bound
    wanted |= {word.attribution for word in made_up.WORDS}
    wanted |= {0.05 - 0.01 - 0.3 + 0.02, 0.25 + 0.6 + 0.1}  # section sums
    assert wanted <= shown


def test_numbers_are_rounded_for_reading(tmp_path: Path) -> None:
    text = report(tmp_path).text
    assert "Probability of “yes”: 0.831" in text
    assert "0.711 to 0.902: lowest and highest over the fold models" in text
    assert "62.5 %" in text


def test_calibration_and_operating_point_are_said_in_words(tmp_path: Path) -> None:
    text = report(tmp_path).text
    assert "Temperature scaling on each fold's tuning part" in text
    assert "At or above the operating point of 0.438 the model says “yes”, below it “no”" in text


def test_the_gauge_marks_probability_range_and_operating_point_to_scale(tmp_path: Path) -> None:
    page = report(tmp_path)
    dot = next(e for e in page.all("circle") if e.attributes["class"] == "dot")
    band = next(e for e in page.all("rect") if e.attributes["class"] == "band")
    assert float(dot.attributes["cx"]) == pytest.approx(10 + 500 * 0.8314159)
    assert float(band.attributes["x"]) == pytest.approx(10 + 500 * 0.7112)
    assert float(band.attributes["width"]) == pytest.approx(500 * (0.9023 - 0.7112))


def test_several_classes_are_all_listed(tmp_path: Path) -> None:
    prediction = made_up.prediction(
        task=made_up.task("multiclass"),
        predicted="head",
        probability=0.55,
        probabilities={"chest": 0.25, "head": 0.55, "spine": 0.2},
        logits=(0.1, 0.9, -0.1),
        interval=(0.5, 0.6),
        conformal_set=("chest", "head"),
    )
    page = unexplained(tmp_path, prediction=prediction, card=made_up.card(kind="multiclass"))
    assert "Probability of “head”: 0.550" in page.text
    assert {"0.25", "0.55", "0.2"} <= set(page.values)
    assert "Conformal set chest, head" in page.text
    assert "operating point" not in page.text


def test_a_probability_of_another_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedmllmError) as caught:
        report(tmp_path, prediction=made_up.prediction(probability=0.1685841))
    assert caught.value.code == "report_mismatch"


@pytest.mark.parametrize(("error", "verdict"), [(0.004, "Passed."), (0.02, "Failed.")])
def test_completeness_is_judged_against_its_bound(tmp_path: Path, error: float, verdict: str) -> None:
    text = report(tmp_path, error=error).text
    assert f"{verdict} The attributions" in text
    assert f"{error:.2%}".replace("%", " %") in text
    assert "the bound is 1.00 %" in text


def test_without_a_bound_nothing_is_called_passed(tmp_path: Path) -> None:
    text = report(tmp_path, completeness_bound=None).text
    assert "no bound was set" in text
    assert "Passed" not in text


def test_method_steps_and_baseline_are_named(tmp_path: Path) -> None:
    text = report(tmp_path).text
    assert "Integrated Gradients, 64 steps" in text
    assert "the mean training volume and a note of padding" in text


# --- what is missing -----------------------------------------------------------------------


def test_a_missing_note_is_said_plainly(tmp_path: Path) -> None:
    page = report(tmp_path, words=(), note=None, prediction=made_up.prediction(modalities_used=("image",)))
    assert "No note: this study has no usable note, and the prediction rests on the image alone." in page.text
    assert "Used for this study image" in page.text
    assert "Missing note" in page.text
    assert page.all("mark") == []


def test_a_missing_image_is_said_plainly(tmp_path: Path) -> None:
    page = unexplained(tmp_path, prediction=made_up.prediction(modalities_used=("text",)))
    assert "No image: this study has no usable series, and the prediction rests on the note alone." in page.text
    assert page.all("img") == []


def test_a_missing_channel_is_named(tmp_path: Path) -> None:
    assert "Missing series: pet." in report(tmp_path).text  # the card reads ct and pet, the study has ct


def test_what_the_model_never_reads_is_not_called_missing(tmp_path: Path) -> None:
    page = report(
        tmp_path, words=(), card=made_up.card(text=False), prediction=made_up.prediction(modalities_used=("image",))
    )
    assert "No note" not in page.text
    assert "This model reads no notes: the text below had no part in the prediction." in page.text


def test_a_model_reads_what_its_contract_holds_and_its_arm_uses(tmp_path: Path) -> None:
    image_only = made_up.prediction(modalities_used=("image",))
    for changes in ({"arm": "image"}, {"contract": made_up.card(text=False).contract}):
        card = made_up.card().model_copy(update=changes)
        assert "The model reads image Used" in report(tmp_path, words=(), card=card, prediction=image_only).text


def test_a_note_that_was_read_but_must_not_be_shown_is_not_called_missing(tmp_path: Path) -> None:
    text = report(tmp_path, note=None).text
    assert "The model read a note; its text is not shown here." in text
    assert "No note" not in text


def test_a_study_without_explanation_says_so_and_shows_raw_slices_only(tmp_path: Path) -> None:
    volume, _ = made_up.phantom("LPS")
    page = unexplained(tmp_path, volumes={"ct": volume})
    assert "This study was scored without an explanation" in page.text
    assert len(page.all("img")) == 3
    assert page.all("mark") == []


def test_a_refused_explanation_gives_its_reason(tmp_path: Path) -> None:
    refusal = records.Refusal("explain", "attribution_failed", "completeness error 3 % after 512 steps, bound 1 %")
    page = unexplained(tmp_path, explanation_refusal=refusal)
    assert "completeness error 3 % after 512 steps, bound 1 % attribution_failed" in page.text


def test_a_patient_is_called_not_recognised_rather_than_unknown_to_the_training(tmp_path: Path) -> None:
    assert "Not recognised: neither the key of this study nor that of its patient" in report(tmp_path).text


def test_a_training_patient_is_warned_about(tmp_path: Path) -> None:
    warning = "This patient was in the training cohort. The probability is not a test result"
    assert warning in report(tmp_path, prediction=made_up.prediction(training_patient=True)).text
    assert warning not in report(tmp_path).text


def test_parts_of_two_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedmllmError, match="different studies"):
        report(tmp_path, prediction=made_up.prediction(study_key="st-00000000000000ff"))


def test_an_explanation_without_its_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedmllmError, match="together, or neither"):
        report(tmp_path, explanation_document=None)


# --- pictures ------------------------------------------------------------------------------


def test_each_plane_stands_raw_beside_its_overlay_with_letters(tmp_path: Path) -> None:
    page = report(tmp_path)
    alts = [image.attributes["alt"] for image in page.all("img")]
    assert [alt.split()[0] for alt in alts] == ["Axial", "The", "Coronal", "The", "Sagittal", "The"]
    assert "right of the patient is on the left of the picture, anterior is up" in alts[0]
    letters = [e.text for e in page.all("span") if e.attributes.get("class", "").startswith("edge")]
    assert "".join(letters) == "RLAP" * 2 + "RLSI" * 2 + "APSI" * 2


def test_the_overlay_differs_from_the_raw_slice_in_the_block_alone(tmp_path: Path) -> None:
    images = report(tmp_path).all("img")
    raw, overlay = picture(images[0]), picture(images[1])
    changed = np.abs(raw - overlay).max(axis=2) > 60
    rows, columns = np.nonzero(changed)
    assert changed.mean() < 0.1
    assert columns.mean() / raw.shape[1] > 0.6, "patient left is on the picture's right"
    assert rows.mean() / raw.shape[0] < 0.4, "anterior is up"
    assert (overlay[changed][:, 0] > overlay[changed][:, 2]).all(), "it raises the logit: red"


def test_the_colour_bar_states_its_scale(tmp_path: Path) -> None:
    page = report(tmp_path)
    labels = next(e for e in page.all("div") if e.attributes.get("class") == "labels")
    assert labels.text == "−0.0010+0.001", "lowest, middle and highest, from left to right"
    assert "logit units per voxel" in page.text


def test_the_gray_scale_and_where_it_comes_from_are_stated(tmp_path: Path) -> None:
    assert "−1000 to 1000 HU: the window that the model was trained with" in report(tmp_path).text
    asked = report(tmp_path, windows={"ct": (-160.0, 240.0)})
    assert "−160 to 240 HU: as asked for" in asked.text


def test_zero_attribution_is_said_not_scaled_up(tmp_path: Path) -> None:
    volume, voxel = made_up.phantom("LPS")
    record, document = made_up.explanation(volume, voxel, np.zeros_like(volume.voxels))
    page = report(tmp_path, explanation=record, explanation_document=document)
    assert "Every voxel of this channel has attribution zero" in page.text
    overlay = picture(page.all("img")[1])
    assert np.ptp(overlay, axis=2).max() < 3


def test_what_the_logit_is_stands_beside_the_picture_in_the_words_of_the_task(tmp_path: Path) -> None:
    assert "The logit is the logarithm of the odds: +0.7 about doubles them." in report(tmp_path).text
    graded = model_documents.Task.of("grade", ("no", "yes", "surely"), ordered=True)
    text = report(tmp_path, card=made_up.card().model_copy(update={"task": graded})).text
    assert "The logit is here the logarithm of the probability of this class" in text
    assert "odds" not in text


@pytest.mark.parametrize(("image", "said"), [(0.03, True), (-0.03, True), (0.04, False), (-1.1, False)])
def test_an_image_that_moved_the_logit_by_next_to_nothing_is_said(tmp_path: Path, image: float, said: bool) -> None:
    volume, voxel = made_up.phantom("LPS")
    record, document = made_up.explanation(volume, voxel, made_up.attribution_of(volume))
    document = document.model_copy(update={"modality_sums": {"image": image, "text": 0.7072}})
    page = report(tmp_path, explanation=record, explanation_document=document)
    assert ("All voxels together moved the logit by" in page.text) == said


def test_an_oblique_series_is_called_oblique(tmp_path: Path) -> None:
    angle = np.radians(30)
    affine = np.diag([4.0, 3.5, 6.0, 1.0])
    affine[:2, :2] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ affine[:2, :2]
    volume, _ = made_up.phantom("LPS", affine=affine)
    assert "oblique, 30° off the patient's axes" in unexplained(tmp_path, volumes={"ct": volume}).text
    straight, _ = made_up.phantom("LPS")
    assert "oblique" not in unexplained(tmp_path, volumes={"ct": straight}).text


# --- the note ------------------------------------------------------------------------------


def test_note_text_is_escaped(tmp_path: Path) -> None:
    page = report(tmp_path)
    assert page.all("script") == []
    source = (tmp_path / "report.html").read_text()
    assert "<script" not in source
    assert "alert('x')</script>" in page.text, "a reader sees what the note says"


def test_class_names_and_words_are_escaped(tmp_path: Path) -> None:
    task = model_documents.Task(target="<b>t</b>", kind="binary", classes=("no", "<img src=x onerror=alert(1)>"))
    prediction = made_up.prediction(
        task=task, predicted=task.classes[1], probabilities={"no": 0.1685841, task.classes[1]: 0.8314159}
    )
    page = unexplained(tmp_path, prediction=prediction)
    assert page.all("img") == []
    assert task.classes[1] in page.text


def test_each_read_word_carries_its_value_and_heat(tmp_path: Path) -> None:
    marks = {mark.text: mark.attributes for mark in report(tmp_path).all("mark")}
    assert set(marks) == {"Cough", "three", "fever", "<script>alert", "large", "effusion", "nodule"}
    assert marks["effusion"] == {"class": "up", "style": "--heat:1.000", "title": "+0.6000 logit"}
    assert marks["fever"] == {"class": "down", "style": "--heat:0.500", "title": "-0.3000 logit"}


def test_the_strongest_words_are_listed_for_readers_without_a_pointer(tmp_path: Path) -> None:
    page = report(tmp_path)
    raising, lowering = (t.line for t in page.all("table") if t.line.startswith("Words that"))
    order = "effusion findings +0.600 large findings +0.250 nodule findings +0.100 Cough history +0.050"
    assert order in raising
    assert lowering.endswith("Word Section Logit fever history −0.300 three history −0.010")


def test_all_of_a_note_comes_back_in_order_cut_into_sections() -> None:
    sections = note_sections(made_up.note(), made_up.WORDS, {"history": -0.24})
    assert [section.name for section in sections] == ["history", "findings"]
    text = "".join(run.text for section in sections for run in section.runs)
    assert re.sub(r"\s", "", text) == re.sub(r"\s", "", made_up.NOTE_TEXT)
    assert sections[0].attribution == -0.24


def test_text_between_sections_is_kept() -> None:
    note = records.Note("Dear all.\nHistory: x\n\nBye", (records.Section("history", 10, 20),))
    sections = note_sections(note, None, {})
    assert [(section.name, section.runs[0].text) for section in sections] == [
        (None, "Dear all."),
        ("history", "History: x"),
        (None, "Bye"),
    ]


def unread(sections: tuple[NoteSection, ...]) -> list[str]:
    return [run.text.strip() for section in sections for run in section.runs if run.unread]


def test_words_that_the_model_did_not_read_are_told_apart() -> None:
    history = tuple(word for word in made_up.WORDS if word.section == "history")
    sections = note_sections(made_up.note(), history, {})
    assert [section.read for section in sections] == [True, False]
    assert unread(sections)[-1].startswith("FINDINGS:\nA large effusion")
    assert unread(note_sections(made_up.note(), None, {})) == [], "without an explanation nothing is known"


def test_words_of_another_note_are_refused() -> None:
    beyond = made_up.WORDS[0].model_copy(update={"start": 0, "end": len(made_up.NOTE_TEXT) + 1})
    with pytest.raises(MedmllmError, match="outside the note"):
        note_sections(made_up.note(), (beyond,), {})


def test_an_error_about_a_note_holds_none_of_its_text() -> None:
    note = replace(made_up.note(), text="secret words")
    with pytest.raises(MedmllmError) as caught:
        note_sections(note, made_up.WORDS, {})
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(note_sections(replace(note, sections=()), None, {}))


def test_each_of_several_targets_stands_with_its_class_its_operating_point_and_its_set(tmp_path: Path) -> None:
    task = model_documents.Task.of_several(
        (
            model_documents.Task.of("nodule", ("nodule=no", "nodule=yes")),
            model_documents.Task.of("part", ("part=chest", "part=head", "part=spine")),
        )
    )
    found = made_up.prediction(
        task=task, predicted="part=head", probability=0.5, probability_of="part=head",
        probabilities=dict(zip(task.classes, (0.75, 0.25, 0.375, 0.5, 0.125), strict=True)),
        predictions={"nodule": "nodule=no", "part": "part=head"}, logits=(-1.1, 0.3, 0.6, -0.8),
        interval=(0.4, 0.6), conformal_set=("nodule=no", "part=chest", "part=head"),
    )  # fmt: skip
    card = made_up.card().model_copy(update={"task": task, "operating_points": {"nodule": 0.3125, "part": 0.5}})
    page = unexplained(tmp_path, prediction=found, card=card)
    table = next(t.line for t in page.all("table") if "Not ruled out" in t.text)
    assert "nodule nodule=no (operating point 0.312 of “nodule=yes”) nodule=no part" in table
    assert table.endswith("part part=head part=chest, part=head (undecided)")
