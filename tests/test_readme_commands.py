"""What the README says can be typed, followed and checked.

Commands: every line of a ```console block that starts with `$ `, and every line of a ```bash block. A `medmllm` line
must parse against the real command line: the verb, each option, the number of arguments, no required one missing.
Nothing is run. A `make` line must name targets of the Makefile.

Links: every relative link, picture and in-page anchor exists, and so does every path in backticks that starts with a
folder of the repository.

Numbers: a measured number carries, right behind it, an HTML comment that says where it comes from, as a path and a
JSON pointer (RFC 6901); GitHub shows only the number:

    AUROC 0.873<!-- results: reports/fusion/results.json#/fused/auroc/estimate -->

The value in the file, rounded to the digits written, must be that number. With a percent sign (`87.3 %`) the value
is multiplied by 100 first; commas that group thousands are ignored.
"""

import json
import re
import shlex
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote  # a JSON pointer in a fragment is percent-encoded (RFC 6901, 6)

import pytest
import typer

from medmllm.cli import app

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()
FOLDERS = ("medmllm", "pipelines", "data_schemas", "reports", "tests", ".ci")

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|<(?:img|a|source)\b[^>]*?\b(?:src|href|srcset)=\"([^\"]+)\"")
NUMBER = r"([-+\u2212]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)"
MARKED = re.compile(NUMBER + r"(\s*%)?[*_`]*<!-- results: (\S+?)#(\S*) -->", re.IGNORECASE)


# --- commands


def command_lines(markdown: str) -> Iterator[str]:
    """Yield the commands of all console and bash blocks, lines that end in a backslash joined."""
    for language, block in FENCE.findall(markdown):
        lines = block.replace("\\\n", " ").splitlines()
        if language == "console":
            yield from (line[2:] for line in lines if line.startswith("$ "))
        elif language == "bash":
            yield from (line for line in lines if line.strip() and not line.lstrip().startswith("#"))


def commands(line: str) -> list[list[str]]:
    """Split a line into its commands, each a list of words, without redirections, settings and comments.

    >>> commands("CUDA_VISIBLE_DEVICES= .venv/bin/medmllm demo --out x > log 2>&1 && make test  # all")
    [['medmllm', 'demo', '--out', 'x'], ['make', 'test']]
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.wordchars += ":=+,[]@%{}$"
    found: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if set(word) <= set("&|;"):
            found.append([])
        elif set(word) <= set("<>&"):
            if found[-1] and found[-1][-1] in ("1", "2"):
                found[-1].pop()
            next(words, None)
        elif not (re.match(r"[A-Za-z_]\w*=", word) and found[-1] == []):
            found[-1].append(word)
    return [[words[0].removeprefix(".venv/bin/"), *words[1:]] for words in found if words]


def misuse(words: list[str]) -> str | None:
    """Return what is wrong with a `medmllm ...` command; None if the command line would take it."""
    command: Any = typer.main.get_command(app)
    context = command.context_class(command, info_name="medmllm")
    rest = words[1:]
    try:
        _, rest, _ = command.make_parser(context).parse_args(rest)
        if not rest:
            return None  # medmllm --help
        verb = command.commands.get(rest[0])
        if verb is None:
            return f"there is no verb {rest[0]!r}"
        context = verb.context_class(verb, parent=context, info_name=rest[0])
        given, left_over, _ = verb.make_parser(context).parse_args(rest[1:])
    except Exception as error:  # noqa: BLE001 - whatever the parser raises is the finding
        return f"{type(error).__name__}: {error}"
    if left_over:
        return f"{left_over} is too much"
    missing = [p.name for p in verb.params if p.required and given.get(p.name) in (None, ())]
    return f"{missing} is missing" if missing and "help" not in given else None


def targets(makefile: str) -> set[str]:
    """Return the targets that a Makefile declares phony: those meant to be typed."""
    return {name for line in re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE) for name in line.split()}


def launched(words: list[str]) -> list[str]:
    """Return the command that torchrun starts; any other as it is.

    >>> launched("torchrun --nproc-per-node=2 --no-python medmllm train".split())
    ['medmllm', 'train']
    """
    return words[words.index("--no-python") + 1 :] if words[0] == "torchrun" and "--no-python" in words else words


def wrong_commands(markdown: str, makefile: str) -> list[str]:
    """Return one sentence for each `medmllm` or `make` command of a page that would not work."""
    wrong = []
    for line in command_lines(markdown):
        for words in map(launched, commands(line)):
            fault = misuse(words) if words[0] == "medmllm" else None
            if words[0] == "make":
                asked = {word for word in words[1:] if "=" not in word and not word.startswith("-")}
                unknown = sorted(asked - targets(makefile))
                fault = f"the Makefile has no target {unknown}" if unknown else None
            if fault:
                wrong.append(f"`{line.strip()}`: {fault}")
    return wrong


def test_every_command_of_the_readme_is_one_we_have() -> None:
    assert wrong_commands(README, (REPOSITORY / "Makefile").read_text()) == []


def test_the_readme_shows_the_two_commands() -> None:
    shown = [words for line in command_lines(README) for words in commands(line)]
    assert [words for words in (["make", "demo"], ["make", "test"]) if words not in shown] == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("medmllm --help", None),
        ("medmllm --log-level info demo --out demo_output", None),
        ("medmllm demo --help", None),
        ("medmllm demo --out a --set training.folds=3 --set 'a.b=[1, 2]'", None),
        ("medmllm score studies/ --model run/model --out scored | tee log", None),
        ("medmllm score a b --model run/model --out scored", "is too much"),
        ("medmllm score --model run/model --out scored", "['studies'] is missing"),
        ("medmllm score studies/ --out scored", "['model'] is missing"),
        ("medmllm score studies/ --modle run/model --out scored", "No such option: --modle"),
        ("medmllm demo --out", "Option '--out' requires an argument"),
        ("medmllm demonstrate --out a", "no verb 'demonstrate'"),
        ("cd x && medmllm --quiet demo --out a", "No such option: --quiet"),
        ("make demo OUT=elsewhere", None),
        ("make -j2 demo exam", "no target ['exam']"),
        ("python train.py --anything", None),
    ],
)
def test_a_command_that_would_not_work_is_found(line: str, fault: str | None) -> None:
    page = f"Text.\n\n```console\n$ {line}\nwhat it prints\n```\n"
    found = wrong_commands(page, ".PHONY: demo test\ndemo:\n")
    assert found == [] if fault is None else fault in found[0].removeprefix(f"`{line}`: ")


def test_a_command_over_two_lines_and_one_in_a_bash_block_are_read() -> None:
    page = "```bash\n# first\nmedmllm demo \\\n    --out a\nmedmllm nothing\n```\n```python\nmedmllm = 1\n```\n"
    assert [line.split() for line in command_lines(page)] == [["medmllm", "demo", "--out", "a"], ["medmllm", "nothing"]]


# --- links


def prose(markdown: str) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", markdown)


def anchors(markdown: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page.

    >>> sorted(anchors("# What it *does*\\n## `score`: one folder\\n"))
    ['score-one-folder', 'what-it-does']
    """
    headings = re.findall(r"^#+ +(.*?)[ #]*$", prose(markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(markdown: str, root: Path) -> list[str]:
    """Return the relative links, in-page anchors and paths in backticks of a page that lead nowhere."""
    dead = []
    for pair in LINK.findall(prose(markdown)):
        link = pair[0] or pair[1]
        path, _, fragment = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue  # another site: no network in tests
        gone = not (root / path).exists() if path else fragment not in anchors(markdown)
        dead += [link] if gone else []
    for path in re.findall(r"`([\w./-]+)`", prose(markdown)):
        if path.partition("/")[0] in FOLDERS and "/" in path and not (root / path).exists():
            dead.append(path)
    return dead


def test_every_link_and_path_of_the_readme_leads_somewhere() -> None:
    assert dead_links(README, REPOSITORY) == []


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("[the plan](medmllm/records.py) and [a site](https://example.org/x)", []),
        ("[below](#the-model) ![map](a.png)\n\n## The model\n", ["a.png"]),
        ("[below](#the-modle)\n\n## The model\n", ["#the-modle"]),
        ('<img src="b.png" width="80">', ["b.png"]),
        ("`medmllm/record.py`, `scikit/learn`, `medmllm/records.py`, `n/a`", ["medmllm/record.py"]),
        ("```text\n[x](nowhere)\n```\n", []),
    ],
)
def test_a_dead_link_is_found(text: str, dead: list[str]) -> None:
    assert dead_links(text, REPOSITORY) == dead


# --- numbers


def value_at(document: Any, pointer: str) -> Any:
    """Return what a JSON pointer (RFC 6901) points at.

    >>> value_at({"a/b": [{"c": 0.5}]}, "/a~1b/0/c")
    0.5
    """
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


def rounds_to(value: float, written: str, *, percent: bool) -> bool:
    """Return whether a value, rounded to the digits written, is the number written.

    >>> rounds_to(0.8726, "0.873", percent=False), rounds_to(0.8726, "87.2", percent=True)
    (True, False)
    """
    number = Decimal(written.replace(",", "").replace("\u2212", "-"))
    exact = Decimal(repr(value)) * (100 if percent else 1)
    last_digit = Decimal(1).scaleb(int(number.as_tuple().exponent))
    return abs(exact - number) <= last_digit / 2


def wrong_numbers(markdown: str, root: Path) -> list[str]:
    """Return one sentence for each marked number that is not the committed one, and each marker without a number."""
    wrong = []
    for written, percent, path, pointer in MARKED.findall(markdown):
        try:
            value = value_at(json.loads((root / path).read_text()), unquote(pointer))
        except (OSError, LookupError, ValueError) as error:
            wrong.append(f"{written}: {path}#{pointer} cannot be read: {type(error).__name__} {error}")
            continue
        if not isinstance(value, int | float) or not rounds_to(value, written, percent=bool(percent)):
            wrong.append(f"{written}{percent} is {value} in {path}#{pointer}")
    markers = len(re.findall(r"<!--\s*results", prose(markdown)))
    matched = len(MARKED.findall(prose(markdown)))
    return wrong + ([f"{markers - matched} markers stand behind no number"] if markers > matched else [])


def test_every_marked_number_of_the_readme_is_the_committed_one() -> None:
    assert wrong_numbers(README, REPOSITORY) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("AUROC 0.873<!-- results: r.json#/auroc/0 -->.", None),
        ("**87.3 %**<!-- results: r.json#/auroc/0 -->", None),
        ("| 1,240<!-- results: r.json#/n --> |", None),
        ("\u22120.5<!-- results: r.json#/gap -->", None),
        ("1.2e-7<!-- results: r.json#/p -->", None),
        ("0.874<!-- results: r.json#/auroc/0 -->", "0.874 is 0.8726"),
        ("0.9<!-- results: r.json#/auroc/1 -->", "cannot be read: IndexError"),
        ("0.9<!-- results: s.json#/auroc -->", "cannot be read: FileNotFoundError"),
        ("0.9<!-- results: r.json#/auroc -->", "0.9 is [0.8726]"),
        ("good<!-- results: r.json#/auroc/0 -->", "1 markers stand behind no number"),
    ],
)
def test_a_number_that_is_not_the_committed_one_is_found(text: str, fault: str | None, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"auroc": [0.8726], "n": 1240, "gap": -0.5, "p": 1.23e-7}')
    found = wrong_numbers(text, tmp_path)
    assert found == [] if fault is None else fault in found[0]
