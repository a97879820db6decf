"""A scanner's maker has one name, however it was typed, and a hospital in its place has none."""

import pytest

from medmllm.ingest.makers import MAKERS, OTHER, known_maker


@pytest.mark.parametrize(
    ("typed", "maker"),
    [
        ("SIEMENS", "SIEMENS"),
        ("Siemens HealthCare GmbH", "SIEMENS"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("G.E. Medical Systems", "GE"),
        ("Philips Medical Systems, Inc.", "PHILIPS"),
        ("TOSHIBA_MEC", "TOSHIBA"),
        ("Canon  Medical\tSystems", "CANON"),
        ("Hitachi Medical Corporation", "HITACHI"),
        ("FUJIFILM Corporation", "FUJIFILM"),
        ("UIH", "UNITED IMAGING"),
        ("Agfa-Gevaert AG", "AGFA"),
        ("Hyperfine Research", "HYPERFINE"),
        ("Brackwater Infirmary", OTHER),
        ("GENEVA UNIVERSITY HOSPITAL", OTHER),  # begins as GE does
        ("ST. ANKES HOSPITAL", OTHER),
        ("unknown", None),
        ("  ", None),
        (None, None),
    ],
)
def test_a_maker_is_known_by_its_word_and_whoever_else_is_typed_there_is_not_told(
    typed: str | None, maker: str | None
) -> None:
    assert known_maker(typed) == maker


def test_every_maker_is_known_by_its_own_name() -> None:
    assert {name: known_maker(name) for name in MAKERS} == {name: name for name in MAKERS}
