"""Fill a template and write it as one HTML file that loads nothing.

    template + documents -> HTML with its style inside -> disk, whole or not at all

Everything is escaped (jinja2 autoescape), and a Content-Security-Policy in the page forbids scripts
and every request, so that a note cannot make a browser do anything. Numbers are shown rounded inside
`<data value="...">`, which keeps the exact value.
"""

import math
import os
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medmllm.documents import RESEARCH_USE_ONLY
from medmllm.evaluation.resampling import level

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


def show_number(value: float | None, digits: int = 3) -> Markup:
    """Return a number as HTML: rounded for reading, exact in the `value` attribute; a dash for None.

    >>> print(show_number(0.83149))
    <data value="0.83149">0.831</data>
    """
    return _data(value, "" if value is None else f"{value:.{digits}f}")


def show_signed(value: float | None, digits: int = 3) -> Markup:
    """Return a number with its sign, a true minus for readers, exact in the `value` attribute.

    >>> print(show_signed(-0.25, 2))
    <data value="-0.25">−0.25</data>
    """
    return _data(value, "" if value is None else f"{value:+.{digits}f}")


def show_small(value: float | None) -> Markup:
    """Return a number of unknown size with three significant digits, larger ones whole.

    >>> print(show_small(0.0000123456), show_small(-1000.0))
    <data value="1.23456e-05">1.23e-05</data> <data value="-1000.0">−1000</data>
    """
    return _data(value, "" if value is None else three_digits(value))


def three_digits(value: float) -> str:
    """Return a number with three significant digits, larger ones whole, so that none is told as 1.03e+03.

    >>> three_digits(343.4), three_digits(999.7), three_digits(1372.5)
    ('343', '1000', '1372')
    """
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def show_percent(value: float | None, digits: int = 1) -> Markup:
    """Return a fraction as per cent; the `value` attribute keeps the fraction.

    >>> print(show_percent(0.625))
    <data value="0.625">62.5 %</data>
    """
    return _data(value, "" if value is None else f"{100 * value:.{digits}f} %")


def show_moment(created_utc: str) -> str:
    """Return a time in UTC, ISO 8601, for reading.

    >>> show_moment("2026-01-02T03:04:05+00:00")
    '2026-01-02 03:04:05 UTC'
    """
    return f"{created_utc.removesuffix('+00:00').replace('T', ' ')} UTC"


def _data(value: float | None, text: str) -> Markup:
    if value is None:
        return Markup('<span class="none" title="not defined">–</span>')
    if not math.isfinite(value):
        return Markup('<data value="{}">not finite</data>').format(repr(float(value)))
    exact = repr(value) if isinstance(value, int) else repr(float(value))
    return Markup('<data value="{}">{}</data>').format(
        exact, text.replace("-", "−", 1) if text.startswith("-") else text
    )


@cache
def environment() -> Environment:
    """Return the jinja2 environment: packaged templates, everything escaped, no undefined names."""
    made = Environment(
        loader=PackageLoader("medmllm.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": show_number,
        "signed": show_signed,
        "small": show_small,
        "percent": show_percent,
        "moment": show_moment,
        "level": level,
    }
    made.globals |= {
        "content_security_policy": CONTENT_SECURITY_POLICY,
        "research_use_only": RESEARCH_USE_ONLY,
    }
    return made


def write_page(path: Path, template: str, *, synthetic: bool, page: object) -> None:
    """Write one page.

    Args:
        path: The HTML file; replaced if it exists.
        template: Name of a file in `templates/`.
        synthetic: The word "synthetic" stands wherever a number appears.
        page: A frozen record that the template reads as `page`.

    Raises:
        OSError: The file cannot be written.
    """
    pieces = environment().get_template(template).generate(synthetic=synthetic, page=page)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.writelines(pieces)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
