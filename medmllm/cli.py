"""The `medmllm` command: one verb per pipeline, an honest exit code.

Results go to stdout, progress and warnings to stderr. Exit codes: 0 all done, 1 failed, 2 misused,
3 finished but some studies were refused, 4 finished but the result does not meet [policy]. Pipelines
are imported inside the verbs, so that `medmllm --help` answers at once.
"""

import errno
import json
import logging
import os
from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Literal, ParamSpec

import typer

from medmllm import __version__
from medmllm.errors import MedmllmError, MisuseError
from medmllm.launch import among_others, launched

Parameters = ParamSpec("Parameters")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Folders of imaging studies to calibrated, explained predictions. Research use only; not a medical device.",
)


OF_THE_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE})


class ExitCode(IntEnum):
    """What the command tells the shell."""

    OK = 0
    FAILED = 1
    MISUSED = 2
    PARTIAL = 3
    POLICY = 4


Studies = Annotated[
    Path, typer.Argument(help="Folder of DICOM or NIfTI studies, a MONAI datalist (.json) or a manifest (.csv).")
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results; made if absent.")]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="CSV or TSV with a study_id or patient_id column.", dir_okay=False)
]
Table = Annotated[
    Path | None,
    typer.Option("--table", help="CSV or TSV with a study_id or patient_id and the columns that the model reads."),
]
Linkage = Annotated[
    Path | None,
    typer.Option(
        "--linkage", help="Also write a table (CSV) from key to original identifier here. Guard it like the originals."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write into a folder that already holds results.")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file laid over the packaged settings.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="key=value laid over both, e.g. training.folds=3.")]


def honest(verb: Callable[Parameters, ExitCode]) -> Callable[Parameters, None]:
    """Turn what a verb returns or raises into an exit code and, for our own errors, one clear line."""

    @wraps(verb)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            code = verb(*args, **kwargs)
        except MisuseError as error:
            typer.secho(f"medmllm: {error.reason}", err=True, fg=typer.colors.RED)
            raise typer.Exit(ExitCode.MISUSED) from None
        except MedmllmError as error:
            typer.secho(f"medmllm: {error.reason}", err=True, fg=typer.colors.RED)
            raise typer.Exit(ExitCode.FAILED) from None
        except OSError as error:
            if error.errno not in OF_THE_MACHINE:
                raise
            typer.secho(f"medmllm: {error.strerror}: not everything could be written", err=True, fg=typer.colors.RED)
            raise typer.Exit(ExitCode.FAILED) from None
        except KeyboardInterrupt:
            typer.secho("medmllm: interrupted", err=True, fg=typer.colors.RED)
            raise typer.Exit(ExitCode.FAILED) from None
        raise typer.Exit(code)

    return run


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        typer.echo(f"medmllm {__version__}")
        raise typer.Exit(ExitCode.OK)


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "warning",
) -> None:
    """Set up logging for every verb."""
    if launched() and context.invoked_subcommand != "train":
        raise typer.BadParameter("only `medmllm train` is shared by several processes: start this without torchrun")
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise typer.BadParameter(f"{log_level!r} is none of debug, info, warning, error", param_hint="--log-level")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("medmllm").setLevel(level)


@app.command()
@honest
def index(
    studies: Studies,
    out: Out,
    labels: Labels = None,
    linkage: Linkage = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write files.parquet instead of files.csv.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
    overwrite: Overwrite = False,
) -> ExitCode:
    """List what is in a folder, by headers only: files, studies, series, problems. Again: reads only what changed."""
    from medmllm.pipelines import index as story

    result = story.run(studies, out=out, labels=labels, linkage=linkage, parquet=parquet, overwrite=overwrite)
    typer.echo(
        json.dumps(result.as_json())
        if as_json
        else f"{result.files} files ({result.read} read), {result.studies} studies, {result.series} series, "
        f"{result.problems} problems -> {out}"
    )
    return ExitCode.PARTIAL if result.refused else ExitCode.OK


@app.command()
@honest
def select(
    studies: Studies,
    model: Annotated[Path | None, typer.Option("--model", help="Take the channels of this model, RUN/model.")] = None,
    table: Table = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also write selection.csv into this folder.")] = None,
    only: Annotated[
        Literal["all", "incomplete", "ambiguous", "refused"],
        typer.Option("--only", help="Which studies to show; refused: the ambiguous ones too."),
    ] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document of all studies instead.")] = False,
    show_descriptions: Annotated[
        bool, typer.Option("--show-descriptions", help="Print series descriptions too: they may name patients.")
    ] = False,
    config: Config = None,
    set_: Set = None,
    overwrite: Overwrite = False,
) -> ExitCode:
    """Dry run: which series every study gives each image channel, and why the others lost; by headers only."""
    from medmllm.config import TrainConfig, load_config

    if model is not None and (config is not None or set_):
        raise MisuseError("--model brings its own channels: leave out --config and --set, or --model")
    settings = None if model else load_config(TrainConfig, "train", file=config, overrides=set_ or ())
    from medmllm.pipelines import select as story

    result = story.run(
        studies, config=settings, model=model, table=table, out=out, only=only, as_json=as_json,
        show_descriptions=show_descriptions, overwrite=overwrite,
    )  # fmt: skip
    typer.echo(result.text)
    return ExitCode.PARTIAL if result.refused else ExitCode.OK


@app.command()
@honest
def quality(
    studies: Studies,
    out: Out,
    config: Config = None,
    set_: Set = None,
    linkage: Linkage = None,
    overwrite: Overwrite = False,
) -> ExitCode:
    """Tell what is implausible about each series, note and recording: quality.csv, by the policy of the settings."""
    from medmllm.config import QualityConfig, load_config

    settings = load_config(QualityConfig, "quality", file=config, overrides=set_ or ())
    from medmllm.pipelines import quality as story

    result = story.run(studies, out=out, config=settings, linkage=linkage, overwrite=overwrite)
    found = result.summary
    typer.echo(
        f"{found.studies} studies: {found.series} series, {found.notes} notes and {found.recordings} recordings read, "
        f"{found.refused_studies} studies would be refused -> {out / 'quality.csv'}{result.counts}"
    )
    return ExitCode.PARTIAL if found.refused_studies else ExitCode.OK


@app.command()
@honest
@among_others(ExitCode.OK, ExitCode.FAILED)
def train(
    studies: Annotated[Path, typer.Option("--studies", help="Folder of DICOM or NIfTI studies, or a list of them.")],
    target: Annotated[
        list[str],
        typer.Option("--target", help='Column, or a threshold on one: "spiculation>=3". Several: learnt side by side.'),
    ],
    out: Out,
    labels: Labels = None,
    splits: Annotated[
        Path | None, typer.Option("--splits", help="Folds: splits.json of a run, or nnU-Net's splits_final.json.")
    ] = None,
    config: Config = None,
    set_: Set = None,
    linkage: Linkage = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run in --out.")] = False,
) -> ExitCode:
    """Cross-validate models of each modality alone and fused on a folder; write the model and its report."""
    from medmllm.config import TrainConfig, load_config

    processes = [f"training.processes={launched()}"] if launched() else []
    settings = load_config(TrainConfig, "train", file=config, overrides=[*(set_ or ()), *processes])
    from medmllm.pipelines import train as story  # torch loads here, after the settings are known to be right

    result = story.run(
        studies,
        labels=labels,
        targets=target,
        out=out,
        config=settings,
        linkage=linkage,
        overwrite=overwrite,
        splits=splits,
        resume=resume,
    )
    typer.echo(result.summary)
    if result.unmet:
        return ExitCode.POLICY
    return ExitCode.PARTIAL if result.refused else ExitCode.OK


@app.command()
@honest
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more folders that `medmllm train` wrote, split alike.")],
    out: Out,
    arm: Annotated[
        str | None, typer.Option("--arm", help="image, text, recording, table or fused; by default that of RUN/model.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="Of runs of several targets: which.")] = None,
    overwrite: Overwrite = False,
) -> ExitCode:
    """Compare runs that share studies and folds: metrics, paired differences, and a best run only where one is."""
    from medmllm.pipelines import compare as story

    typer.echo(story.run(runs, out=out, arm=arm, target=target, overwrite=overwrite))
    return ExitCode.OK


@app.command()
@honest
def track(
    run: Annotated[Path, typer.Argument(help="Folder that `medmllm train` wrote.")],
) -> ExitCode:
    """Send MLflow what it missed while it did not answer during a training."""
    from medmllm.pipelines import track as story

    sent = story.run(run)
    typer.echo(f"{sent} entries sent" if sent else "nothing waits")
    return ExitCode.OK


@app.command()
@honest
def score(
    studies: Studies,
    model: Annotated[Path, typer.Option("--model", help="Model package: RUN/model of `medmllm train`.")],
    out: Out,
    explain: Annotated[bool, typer.Option("--explain", help="Also explain each study.")] = False,
    table: Table = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Studies per forward pass.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Studies read ahead in parallel.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = None,
    config: Config = None,
    set_: Set = None,
    linkage: Linkage = None,
    overwrite: Overwrite = False,
) -> ExitCode:
    """Score every study under STUDIES; a bad study is reported, never fatal, never silent."""
    from medmllm.config import ScoreConfig, load_config

    flags = {"batch_size": batch_size, "workers": workers, "device": device}
    overrides = [*(set_ or ()), *(f"{key}={value}" for key, value in flags.items() if value is not None)]
    settings = load_config(ScoreConfig, "score", file=config, overrides=overrides)
    from medmllm.pipelines import score as story  # torch loads here

    result = story.run(
        studies, model=model, out=out, config=settings, explain=explain, table=table, linkage=linkage,
        overwrite=overwrite,
    )  # fmt: skip
    files = f", and {result.files} damaged files of no study (problems.csv)" if result.files else ""
    typer.echo(f"{result.scored} scored, {result.refused} refused{files} -> {out / 'index.html'}")
    return ExitCode.PARTIAL if result.refused or result.files else ExitCode.OK


@app.command()
@honest
def demo(
    out: Out,
    config: Config = None,
    set_: Set = None,
    overwrite: Overwrite = False,
) -> ExitCode:
    """Make a synthetic cohort with planted causes, train on it, score and explain a second folder."""
    from medmllm.config import DemoConfig, load_config

    settings = load_config(DemoConfig, "demo", file=config, overrides=set_ or ())
    from medmllm.pipelines import demo as story  # torch loads here

    typer.echo(story.run(out, config=settings, overwrite=overwrite))
    return ExitCode.OK


@app.command()
@honest
def deidentify(
    studies: Studies,
    out: Out,
    labels: Labels = None,
    linkage: Linkage = None,
    encrypt_linkage: Annotated[
        bool,
        typer.Option("--encrypt-linkage", help="Encrypt it; asks for a passphrase, or MEDMLLM_LINKAGE_PASSPHRASE."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the report and the ledger alone.")] = False,
    config: Config = None,
    set_: Set = None,
    overwrite: Overwrite = False,
) -> ExitCode:
    """Write studies again without what tells who they are about; what cannot be cleaned is refused."""
    from medmllm.config import load_config
    from medmllm.deidentify_config import DeidentifyConfig

    settings = load_config(DeidentifyConfig, "deidentify", file=config, overrides=set_ or ())
    if encrypt_linkage and linkage is None:
        raise MisuseError("--encrypt-linkage needs --linkage FILE")
    passphrase = ask_passphrase(confirm=True) if encrypt_linkage else None
    from medmllm.pipelines import deidentify as story

    result = story.run(
        studies, out=out, config=settings, labels=labels, linkage=linkage, passphrase=passphrase, dry_run=dry_run,
        overwrite=overwrite,
    )  # fmt: skip
    done = "would be written" if dry_run else "written"
    left = f"{result.refused} refused, {result.ignored} of no study left out (ledger.csv)"
    typer.echo(f"{result.written} files of {result.studies} studies {done}, {left} -> {out}")
    return ExitCode.PARTIAL if result.refused else ExitCode.OK


@app.command()
@honest
def linkage(
    file: Annotated[Path, typer.Argument(help="Table written with --linkage and --encrypt-linkage.")],
) -> ExitCode:
    """Print an encrypted linkage table: each key and the original identifier it stands for."""
    from medmllm.ingest.linkage import unseal

    typer.echo(unseal(file, ask_passphrase(confirm=False)).decode("utf-8"), nl=False)
    return ExitCode.OK


def ask_passphrase(*, confirm: bool) -> str:
    """Return the passphrase of MEDMLLM_LINKAGE_PASSPHRASE, or of whoever sits at the terminal."""
    given = os.environ.get("MEDMLLM_LINKAGE_PASSPHRASE")
    return given or str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))


@app.command()
@honest
def schemas(
    out: Out = Path("data_schemas"),
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail when a file differs.")] = False,
) -> ExitCode:
    """Write the JSON Schema of every file medmllm reads or writes."""
    from medmllm.pipelines import schemas as story

    stale = story.run(out, check=check)
    typer.echo(f"{len(stale)} schemas {'differ' if check else 'written'}" + "".join(f"\n  {name}" for name in stale))
    return ExitCode.FAILED if check and stale else ExitCode.OK


if __name__ == "__main__":
    app(prog_name="medmllm")
