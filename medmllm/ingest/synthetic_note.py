"""Write the request note of one synthetic study: INDICATION, HISTORY, TECHNIQUE, COMPARISON.

    exposed or not, age decade, random draws -> text

HISTORY is one sentence that says whether the patient was exposed to asbestos; every other sentence is
drawn without regard to it. There are no FINDINGS: a report of what was seen would give away the image.
"""

import numpy as np

# Pairs with equally many words, so that no length tells them apart; "asbestos" stands in one list alone.
EXPOSED = (
    "Worked twenty years as a welder with asbestos exposure.",
    "Occupational exposure reported: asbestos lagging on ships, now retired.",
    "Asbestos exposure at work for many years as builder.",
)
NOT_EXPOSED = (
    "Worked twenty years as a teacher without dust exposure.",
    "No occupational exposure reported: office work only, retired teacher.",
    "No exposure at work for many years as bookkeeper.",
)

_SYMPTOMS = (
    "Cough for three weeks.",
    "Short of breath on stairs.",
    "Chest pain on the right.",
    "Weight loss since spring.",
    "No complaints, routine request.",
)
_SMOKING = ("Never smoked.", "Stopped smoking ten years ago.", "Smokes ten cigarettes a day.", "Smoking not asked.")
_OPENINGS = ("Aged {low} to {high}.", "Patient in the {low} to {high} age band.", "Age band {low} to {high}.")
_TECHNIQUE = (
    "CT of the chest without contrast, axial slices.",
    "Axial CT of the chest, no contrast given.",
    "Low-dose CT of the chest.",
)
_COMPARISON = ("None.", "No earlier examination available.", "Earlier films not at hand.")


def compose_note(*, exposed: bool, age_decade: int, rng: np.random.Generator) -> str:
    """Return the note of one study; the draws are the same whether exposed or not.

    Args:
        exposed: Whether HISTORY tells of exposure to asbestos.
        age_decade: Lower end of the age band, years.
        rng: Source of the draws.
    """
    phrasing = int(rng.integers(len(EXPOSED)))
    occupation = (EXPOSED if exposed else NOT_EXPOSED)[phrasing]
    opening = _pick(rng, _OPENINGS).format(low=age_decade, high=age_decade + 9)
    rest = [_pick(rng, _SYMPTOMS), _pick(rng, _SMOKING)]
    indication = " ".join([opening, *(rest[place] for place in rng.permutation(2))])
    return (
        f"INDICATION: {indication}\n"
        f"HISTORY: {occupation}\n"
        f"TECHNIQUE: {_pick(rng, _TECHNIQUE)}\n"
        f"COMPARISON: {_pick(rng, _COMPARISON)}\n"
        "SYNTHETIC NOTE\n"
    )


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]
