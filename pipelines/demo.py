"""Show the whole path on a synthetic cohort with planted causes.

write the cohort -> train on its first folder -> score and explain its second -> print what to open
"""

import shutil
from pathlib import Path

from medmllm.config import DemoConfig
from medmllm.csv_tables import check_writable
from medmllm.ingest.synthetic_cohort import count_studies, write_cohort
from medmllm.pipelines import score, train
from medmllm.pipelines.progress import progress_bar

PARTS = ("cohort", "run", "scored")


def run(out: Path, *, config: DemoConfig, overwrite: bool = False) -> str:
    """Make, train, score and explain; return what the terminal shows.

    Args:
        out: Gets cohort/, run/ and scored/.
        config: Resolved settings.
        overwrite: Remove those three of an earlier demo first.

    Raises:
        MisuseError: An earlier demo is there and `overwrite` is not set.
    """
    for part in PARTS:
        if overwrite:
            shutil.rmtree(out / part, ignore_errors=True)
        check_writable(out, overwrite=False, marker=part)
    cohort = out / "cohort"
    with progress_bar("Writing the synthetic cohort", count_studies(config.cohort)) as advance:
        write_cohort(cohort, config.cohort, advance=advance)
    trained = train.run(
        cohort / "training" / "studies",
        labels=cohort / "training" / "labels.csv",
        targets=["outcome"],
        out=out / "run",
        config=config.train,
        synthetic=True,
    )
    scored = score.run(
        cohort / "scoring" / "studies",
        model=out / "run" / "model",
        out=out / "scored",
        config=config.score,
        explain=True,
    )
    return f"""{trained.summary}
SYNTHETIC scoring folder: {scored.scored} scored, {scored.refused} refused (one study was broken on purpose)

Everything above and below is SYNTHETIC: made by medmllm, without clinical meaning.
Open these in a browser:
  {(out / "scored" / "index.html").resolve()}   each scored study, its explanation, and what was refused
  {(out / "run" / "report.html").resolve()}   image-only, text-only and fused models, out of fold
The planted lesions lie in {cohort / "lesion_masks"}; the true outcomes in labels.csv of each folder."""
