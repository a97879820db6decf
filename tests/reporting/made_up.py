"""Made-up documents and records for report tests.

The phantom: a box in air with one bright block in the patient's LEFT, ANTERIOR,
SUPERIOR corner, stored in any orientation asked for.
"""

import nibabel as nib
import numpy as np

from medmllm import documents, model_documents, records, result_documents
from medmllm.config import TrainConfig, load_config
from medmllm.reporting.comparison import ComparedRun, ComparisonDocument, RunDifference
from medmllm.table_rows import LedgerRow, PredictionRow

STUDY = "st-00000000000000a1"
PATIENT = "pt-00000000000000b2"
SERIES = "se-00000000000000c3"
DIGEST = "ab" * 32
CLASSES = ("no", "yes")
NOTE_TEXT = (
    "HISTORY:\nCough for three weeks, no fever. <script>alert('x')</script>\n\n"
    "FINDINGS:\nA large effusion on the left & a small nodule.\n"
)

# --- records -------------------------------------------------------------------------------


def phantom(codes: str = "RAS", *, size: tuple[int, int, int] = (40, 48, 20), affine: np.ndarray | None = None):
    """A volume with a bright block left, anterior, superior, stored along `codes`; and the block's centre voxel."""
    ras = np.full(size, -900, np.float32)
    x, y, z = size
    ras[3 : x - 3, 3 : y - 3, 1 : z - 1] = 30
    block = (slice(x // 8, x // 4), slice(y - y // 3, y - y // 5), slice(z - z // 3, z - z // 5))
    ras[block] = 700
    centre = tuple((part.start + part.stop - 1) // 2 for part in block)
    placed = np.diag([4.0, 3.5, 6.0, 1.0]) if affine is None else affine
    image = nib.Nifti1Image(ras, placed)
    mark = np.zeros(size, np.float32)
    mark[centre] = 1
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(placed), nib.orientations.axcodes2ornt(tuple(codes))
    )
    turned = image.as_reoriented(turn)
    marked = nib.Nifti1Image(mark, placed).as_reoriented(turn)
    voxel = tuple(int(i) for i in np.argwhere(np.asanyarray(marked.dataobj) == 1)[0])
    volume = records.Volume(np.asanyarray(turned.dataobj), turned.affine, None, "CT")
    return volume, voxel


def attribution_of(volume: records.Volume, *, sign: float = 1.0) -> np.ndarray:
    """Attribution that is `sign` in the bright block and faint elsewhere."""
    faint = np.random.default_rng(3).normal(0, 1e-6, volume.voxels.shape)
    return (faint + np.where(volume.voxels > 500, sign * 1e-3, 0)).astype(np.float32)


def note() -> records.Note:
    findings = NOTE_TEXT.index("FINDINGS:")
    return records.Note(
        NOTE_TEXT,
        (
            records.Section("history", 0, findings),
            records.Section("findings", findings, len(NOTE_TEXT)),
        ),
    )


def word(text: str, attribution: float, section: str) -> result_documents.WordDocument:
    start = NOTE_TEXT.index(text)
    return result_documents.WordDocument(start=start, end=start + len(text), section=section, attribution=attribution)


WORDS = (
    word("Cough", 0.05, "history"),
    word("three", -0.01, "history"),
    word("fever", -0.3, "history"),
    word("<script>alert", 0.02, "history"),
    word("large", 0.25, "findings"),
    word("effusion", 0.6, "findings"),
    word("nodule", 0.1, "findings"),
)


# --- documents -----------------------------------------------------------------------------


def provenance() -> records.Provenance:
    return records.Provenance(
        medmllm_version="0.1.0",
        commit="c0ffee" * 6 + "c0de",
        dirty=False,
        python="3.11.9",
        platform="Linux x86_64",
        packages={"torch": "2.10.0", "monai": "1.6.1"},
        command="score STUDIES --model MODEL --out OUT --explain",
        seed=20,
        inputs={"model": DIGEST},
        created_utc="2026-01-02T03:04:05+00:00",
    )


def task(kind: str = "binary") -> model_documents.Task:
    classes = CLASSES if kind == "binary" else ("chest", "head", "spine")
    return model_documents.Task(target="effusion", kind=kind, classes=classes)


def card(*, synthetic: bool = False, text: bool = True, kind: str = "binary") -> model_documents.ModelCard:
    packaged = load_config(TrainConfig, "train")
    image = packaged.image.model_copy(
        update={
            "intensity": "window",
            "regrid": "never",
            "window": (-1000.0, 1000.0),
            "channels": {"ct": documents.Channel(modality="CT"), "pet": documents.Channel(modality="PT")},
        }
    )
    tokens = packaged.text.model_copy(update={"sections": ("history", "findings")})
    contract = documents.PreprocessingContract(
        version=1, orientation="RAS", image=image, accepted={}, text=tokens if text else None
    )
    return model_documents.ModelCard(
        task=task(kind),
        arm="fused" if text else "image",
        contract=contract,
        contract_fingerprint=contract.fingerprint,
        model=packaged.model,
        folds=tuple(
            model_documents.FoldModel(
                fold=fold,
                weights=f"fold_{fold}.safetensors",
                weights_sha256=DIGEST,
                temperature=1.1 + fold / 10,
                best_epoch=7 + fold,
                threshold=0.4,
            )
            for fold in range(3)
        ),
        files={},
        operating_point=0.4375,
        calibration="Temperature scaling on each fold's tuning part; mean over 3 fold models.",
        intended_use="Research on cohorts like the training cohort.",
        training_patients=(),
        training_studies=(),
        split_digest=DIGEST,
        synthetic=synthetic,
        provenance=provenance(),
    )


def prediction(**changes: object) -> result_documents.PredictionDocument:
    values: dict[str, object] = {
        "study_key": STUDY,
        "patient_key": PATIENT,
        "task": task(),
        "predicted": "yes",
        "probability": 0.8314159,
        "probabilities": {"no": 0.1685841, "yes": 0.8314159},
        "logits": (1.5958,),
        "interval": (0.7112, 0.9023),
        "operating_point": 0.4375,
        "calibration": "Temperature scaling on each fold's tuning part; mean over 3 fold models.",
        "conformal_set": None,
        "modalities_used": ("image", "text"),
        "training_patient": False,
        "synthetic": False,
        "weights_digest": DIGEST,
        "contract_fingerprint": DIGEST,
        "provenance": provenance(),
    }
    return result_documents.PredictionDocument.model_validate(values | changes)


def explanation(
    volume: records.Volume, voxel: tuple[int, int, int], attribution: np.ndarray, *, words=WORDS, error: float = 0.004
) -> tuple[records.Explanation, result_documents.ExplanationDocument]:
    """One explanation as record and as document, for the channel `ct`."""
    sums = {name: sum(w.attribution for w in words if w.section == name) for name in ("history", "findings")}
    common = {
        "study_key": STUDY,
        "method": "Integrated Gradients",
        "baseline": "the mean training volume and a note of padding",
        "steps": 64,
        "logit": 1.5958,
        "baseline_logit": -0.2042,
        "convergence_delta": error * 1.8,
        "faithfulness": None,
        "grade": None,
        "modality_shares": {"image": 0.625, "text": 0.375},
        "modality_sums": {"image": 1.1, "text": 0.7072},
    }
    part = records.ChannelAttribution("ct", SERIES, volume, attribution)
    record = records.Explanation(
        explained_class=1,
        channels=(part,),
        words=tuple(records.WordAttribution(w.start, w.end, w.section, w.attribution) for w in words),
        **common,
    )
    place = volume.affine @ [*voxel, 1]
    document = result_documents.ExplanationDocument(
        explained_class="yes",
        completeness_error=error,
        channels=(
            result_documents.ChannelFile(
                channel="ct",
                series_key=SERIES,
                file="attribution.nii.gz",
                peak_voxel=voxel,
                peak_ras_mm=tuple(place[:3]),
            ),
        ),
        words=words,
        section_sums=sums if words else {},
        provenance=provenance(),
        **common,
    )
    return record, document


def prediction_row(number: int, probability: float, **changes: object) -> PredictionRow:
    values: dict[str, object] = {
        "study_key": f"st-{number:016x}",
        "patient_key": f"pt-{number:016x}",
        "predicted": CLASSES[probability >= 0.4375],
        "probability": probability,
        "probabilities": {"no": 1 - probability, "yes": probability},
        "interval_low": max(0, probability - 0.1),
        "interval_high": min(1, probability + 0.1),
        "conformal_set": {},
        "abstained": None,
        "modalities_used": "image+text",
        "training_patient": False,
        "weights_digest": DIGEST,
    }
    return PredictionRow.model_validate(values | changes)


def ledger_row(number: int, **changes: object) -> LedgerRow:
    values: dict[str, object] = {
        "study_key": f"st-{number:016x}",
        "patient_key": f"pt-{number:016x}",
        "stage": "read",
        "code": "bad_geometry",
        "reason": "slices 4 and 5 lie 6.00 mm apart, the median gap is 2.00 mm",
        "retryable": False,
    }
    return LedgerRow.model_validate(values | changes)


def summary(scored: int, ledger: list[LedgerRow], *, synthetic: bool = False) -> result_documents.ScoringSummary:
    codes: dict[str, int] = {}
    for row in ledger:
        codes[row.code] = codes.get(row.code, 0) + 1
    return result_documents.ScoringSummary(
        scored=scored,
        refused=len(ledger),
        refused_by_code=codes,
        explained=1,
        ignored_files=5,
        synthetic=synthetic,
        provenance=provenance(),
    )


def metric(name: str, estimate: float | None, low: float | None, high: float | None, group: str = "all"):
    return result_documents.MetricDocument(
        name=name, estimate=estimate, low=low, high=high, n=120, patients=100, group=group
    )


def evaluation(*, synthetic: bool = False) -> result_documents.EvaluationDocument:
    arms = {"image": (0.7125, 0.62, 0.8), "text": (0.7821, 0.69, 0.86), "fused": (0.8543, 0.78, 0.92)}
    return result_documents.EvaluationDocument(
        task=task(),
        synthetic=synthetic,
        n=120,
        patients=100,
        class_counts={"no": 70, "yes": 50},
        excluded=3,
        confidence=0.95,
        bootstrap_samples=2000,
        arms=tuple(
            result_documents.ArmDocument(
                arm=arm,
                metrics=(
                    metric("auroc", *numbers),
                    metric("auprc", 0.7, 0.6, 0.8),
                    metric("brier", 0.18123, 0.15, 0.21),
                    metric("calibration_slope", None, None, None),
                ),
            )
            for arm, numbers in arms.items()
        ),
        differences=(metric("auroc", 0.1418, 0.05, 0.23, "image"), metric("auroc", 0.0722, -0.01, 0.15, "text")),
        folds=tuple(
            result_documents.FoldDocument(
                fold=fold,
                training_studies=64,
                tuning_studies=16,
                test_studies=40,
                training_patients=53,
                tuning_patients=13,
                test_patients=34,
            )
            for fold in range(3)
        ),
        split_digest=DIGEST,
        contract_fingerprint=DIGEST,
        remarks=("The site alone predicts the target with AUROC 0.70: part of the result may be the site.",),
        provenance=provenance(),
    )


def comparison(*, synthetic: bool = False) -> ComparisonDocument:
    """Two runs, the first of them best in AUROC."""
    runs = {"run_a": (0.8543, 0.78, 0.92), "run_b": (0.7125, 0.62, 0.8)}
    return ComparisonDocument(
        task=task(),
        synthetic=synthetic,
        n=120,
        patients=100,
        split_digest=DIGEST,
        confidence=0.95,
        bootstrap_samples=2000,
        runs=tuple(
            ComparedRun(
                name=name,
                arm="fused",
                metrics=(metric("auroc", *numbers), metric("calibration_slope", None, None, None)),
                best_in=("auroc",) if name == "run_a" else (),
            )
            for name, numbers in runs.items()
        ),
        differences=(
            RunDifference(metric="auroc", first="run_a", second="run_b", estimate=0.1418, low=0.05, high=0.23),
            RunDifference(
                metric="calibration_slope", first="run_a", second="run_b", estimate=None, low=None, high=None
            ),
        ),
        settings={"training.learning_rate": ("0.001", "<b>0.01</b>")},
        remarks=("About 0.1 of them would still exclude 0.",),
        provenance=provenance(),
    )
