"""Turn the verdicts of all tools on all cases into counts by hazard, and the counts into tables.

    cases -> hazard_group, tabulate -> the "by_hazard" and "totals" of results.json -> write_tables -> two README files

Each case stands in exactly one row, so that the rows add up to the totals.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OUTCOMES = ("right", "warned", "refused", "unsaid", "wrong", "crashed", "hung")
RESULTS = "reports/peers/results.json"
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"

# The first row of which a case has a hazard is its row.
SERIES_ROWS: tuple[tuple[str, frozenset[str]], ...] = (
    ("mosaic", frozenset({"mosaic"})),
    ("enhanced multi-frame", frozenset({"enhanced_multiframe"})),
    ("gantry tilt", frozenset({"gantry_tilt"})),
    ("missing slices, uneven gaps", frozenset({"missing_slice", "unequal_spacing", "variable_spacing"})),
    ("phases, echoes, b-values or times in one series",
     frozenset({"multi_acquisition", "multi_echo", "multi_phase", "4d", "diffusion"})),
    ("doubled slices, places or UIDs", frozenset({"duplicate_slice", "same_sop_uid", "same_position"})),
    ("localizer or other orientations mixed in", frozenset({"localizer_mixed", "localizer", "mixed_orientation"})),
    ("orientation that jitters", frozenset({"orientation_jitter", "iop_jitter", "jitter"})),
    ("rescale that differs by slice", frozenset({"per_slice_rescale"})),
    ("damaged or incomplete", frozenset({"truncated", "missing_pixelspacing", "corrupt", "missing_position"})),
    ("no preamble, big endian, deflated", frozenset({"no_preamble", "big_endian", "deflated"})),
    ("compressed",
     frozenset({"transfer_syntax", "jpeg2000", "jpeg_ls", "jpeg_lossless", "htj2k", "rle", "multi_fragment"})),
)  # fmt: skip
SERIES_REST = "plain, oblique and lone slices"
NIFTI_ROWS: tuple[tuple[str, frozenset[str]], ...] = (
    ("NIfTI: damaged gzip, empty", frozenset({"corrupt"})),
    ("NIfTI: sform, qform, units unclear",
     frozenset({"sform_ne_qform", "no_orientation", "units", "bad_header", "singular"})),
    ("NIfTI: oblique, flipped, sheared", frozenset({"orientation", "oblique", "gantry_tilt"})),
    ("NIfTI: scaling, NaN, types, byte order", frozenset({"scl_slope", "nan", "dtype", "big_endian", "rgb"})),
)  # fmt: skip
NIFTI_REST = "NIfTI: 2D, 4D, pairs, NIfTI-2, names"
KINDS = {"series": "all DICOM series", "nifti": "all NIfTI"}
SAID = {
    "wrong": "wrong without a word",
    "right": "right",
    "warned": "not right, but warned",
    "refused": "refused",
    "unsaid": "right, a doubt not said",
    "crashed": "crashed",
    "hung": "hung",
}
ROWS = (*(label for label, _ in SERIES_ROWS), SERIES_REST, *(label for label, _ in NIFTI_ROWS), NIFTI_REST)


def hazard_group(case: Mapping[str, Any]) -> str:
    """Return the row of a case.

    >>> hazard_group({"kind": "series", "hazards": ["mosaic", "4d"]}), hazard_group({"kind": "nifti", "hazards": []})
    ('mosaic', 'NIfTI: 2D, 4D, pairs, NIfTI-2, names')
    """
    rows, rest = (NIFTI_ROWS, NIFTI_REST) if case["kind"] == "nifti" else (SERIES_ROWS, SERIES_REST)
    return next((label for label, hazards in rows if not hazards.isdisjoint(case["hazards"])), rest)


def tabulate(cases: Mapping[str, Mapping[str, Any]], tools: Sequence[str]) -> dict[str, Any]:
    """Return {"by_hazard": {key: row}, "totals": {kind: row}}; keys hold no blanks, for JSON pointers.

    A row is {"label": words, "cases": n, key of a tool: {outcome: n, "acceptable": n}}; a tool that does not read a
    kind is absent there.
    """
    present = {case["hazard"] for case in cases.values()}
    return {
        "by_hazard": {
            key(label): _row(label, [case for case in cases.values() if case["hazard"] == label], tools)
            for label in ROWS
            if label in present
        },
        "totals": {
            kind: _row(label, [case for case in cases.values() if case["kind"] == kind], tools)
            for kind, label in KINDS.items()
        },
    }


def key(name: str) -> str:
    """Return a name as a key without blanks.

    >>> key("dcm2niix -p n"), key("NIfTI: 2D, 4D")
    ('dcm2niix_p_n', 'nifti_2d_4d')
    """
    return re.sub(r"\W+", "_", name).strip("_").lower()


def _row(label: str, cases: Sequence[Mapping[str, Any]], tools: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"label": label, "cases": len(cases)}
    for tool in tools:
        answers = [case["tools"][tool] for case in cases if tool in case["tools"]]
        if answers:
            outcomes = Counter(answer["outcome"] for answer in answers)
            acceptable = sum(answer["acceptable"] for answer in answers)
            found[key(tool)] = {outcome: outcomes[outcome] for outcome in OUTCOMES} | {"acceptable": acceptable}
    return found


# --- tables


def full_table(results: Mapping[str, Any]) -> str:
    """Return hazards x tools with every outcome that occurs."""
    tools = list(results["versions"])
    lines = [_line(["hazard", "cases", *tools]), _line(["---"] * (2 + len(tools)))]
    for row in (*results["by_hazard"].values(), *_totals(results).values()):
        lines.append(_line([row["label"], str(row["cases"]), *(_words(row.get(key(tool))) for tool in tools)]))
    return "\n".join(lines)


def _words(counts: Mapping[str, int] | None) -> str:
    if counts is None:
        return "–"
    words = [f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]]
    return ", ".join(f"**{word}**" if word.endswith(("wrong", "crashed", "hung")) else word for word in words)


def short_table(results: Mapping[str, Any]) -> str:
    """Return hazards x tools, how many were wrong without a word, then the totals; each number says its source.

    Hazards that no tool got wrong are left out.
    """
    tools = list(results["versions"])
    lines = [_line(["wrong without a word", "of", *tools]), _line(["---"] * (2 + len(tools)))]
    for name, row in results["by_hazard"].items():
        if any(row[key(tool)]["wrong"] for tool in tools if key(tool) in row):
            lines.append(_numbers(results, row["label"], ("by_hazard", name), tools, "wrong"))
    for kind, row in _totals(results).items():
        for outcome, said in SAID.items():
            if any(row[key(tool)][outcome] for tool in tools if key(tool) in row):
                lines.append(_numbers(results, f"**{row['label']}: {said}**", ("totals", kind), tools, outcome))
    return "\n".join(lines)


def _totals(results: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: row for kind, row in results["totals"].items() if row["cases"]}


def _numbers(results: Mapping[str, Any], label: str, place: tuple[str, str], tools: Sequence[str], outcome: str) -> str:
    """Return one line of the short table, with where each number comes from behind it."""
    row = results[place[0]][place[1]]
    pointer = f"<!-- results: {RESULTS}#/{'/'.join(place)}"
    cells = [f"{row['cases']}{pointer}/cases -->"]
    for tool in map(key, tools):
        cells.append(f"{row[tool][outcome]}{pointer}/{tool}/{outcome} -->" if tool in row else "–")
    return _line([label, *cells])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def between(page: str, table: str) -> str:
    """Return a page with the table put between its two marks.

    Raises:
        ValueError: The page does not have each mark once.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs {BEGIN} and {END}, once each")
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table}\n{END}", page, flags=re.DOTALL)


def write_tables(repository: Path) -> None:
    """Put the tables of the committed results into the README of the report and that of the repository."""
    results = json.loads((repository / RESULTS).read_text(encoding="utf-8"))
    for name, table in (("reports/peers/README.md", full_table(results)), ("README.md", short_table(results))):
        page = repository / name
        page.write_text(between(page.read_text(encoding="utf-8"), table), encoding="utf-8")
