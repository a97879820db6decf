"""Say what words tell of death in the LGG notes: with all sites in every fold, and with each site left out.

    python reports/cohorts/words_across_sites.py DATA -> words_across_sites.json beside this file

The stated baseline mixes the sites in its folds, and the site alone predicts death; this is the like of `lgg_death`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

HERE = Path(__file__).resolve().parent
SHUFFLES = (1, 2, 3)


def measure(cohort: Path) -> dict[str, object]:
    """Return the AUROC, pooled out of fold, of a logistic regression on TF-IDF of words, under both splits."""
    table = pd.read_csv(cohort / "labels.csv")
    notes = [(cohort / "studies" / study / "note.txt").read_text(encoding="utf-8") for study in table["study_id"]]
    died, site = table["death"].astype(int), table["site"]
    model = make_pipeline(TfidfVectorizer(min_df=2), LogisticRegression(class_weight="balanced", max_iter=2000))

    def auroc(split: object, groups: pd.Series | None = None) -> float:
        chances = cross_val_predict(model, notes, died, groups=groups, cv=split, method="predict_proba")
        return float(roc_auc_score(died, chances[:, 1]))

    shuffled = [auroc(StratifiedKFold(5, shuffle=True, random_state=seed)) for seed in SHUFFLES]
    return {
        "command": "python reports/cohorts/words_across_sites.py DATA",
        "studies": len(table),
        "auroc_five_folds": float(np.mean(shuffled)),
        "auroc_site_left_out": auroc(LeaveOneGroupOut(), site),
    }


def main() -> None:
    """Write words_across_sites.json."""
    text = json.dumps(measure(Path(sys.argv[1]) / "brain_mr_lgg"), indent=2)
    (HERE / "words_across_sites.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
