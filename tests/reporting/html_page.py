"""Read a report back: its elements in order, their text, its inline pictures."""

import base64
import io
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

VOID = {"meta", "link", "img", "br", "hr", "input"}
INLINE = {"a", "b", "code", "data", "mark", "span", "strong"}  # all others stand apart from their neighbours


@dataclass
class Element:
    """One start tag with the text inside it."""

    tag: str
    attributes: dict[str, str]
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text inside, with every space and line end as written."""
        return "".join(self.pieces)

    @property
    def line(self) -> str:
        """The text inside as a reader sees it, on one line."""
        return " ".join(self.text.split())


@dataclass
class Page(HTMLParser):
    """A parsed page: its elements in order, and whether every tag was closed."""

    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    @classmethod
    def read(cls, path: Path) -> "Page":
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        page.faults += [f"<{element.tag}> is never closed" for element in page.open]
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in INLINE:
            self.handle_data(" ")
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1].tag == tag:
            self.open.pop()
        else:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.pieces.append(data)

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    @property
    def text(self) -> str:
        """What a reader sees, on one line."""
        return self.all("body")[0].line

    @property
    def values(self) -> list[str]:
        """Exact values of all numbers shown, in order."""
        return [element.attributes["value"] for element in self.all("data")]


def picture(element: Element) -> np.ndarray:
    """Decode the inline picture of an <img>."""
    return decode(element.attributes["src"])


def decode(uri: str) -> np.ndarray:
    """Decode an inline picture to (rows, columns, 3) floats."""
    head, _, body = uri.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB")).astype(float)
