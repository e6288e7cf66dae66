"""Markdown extension of the site: turns `$...$` and `$$...$$` into MathML, which browsers draw without scripts."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element, SubElement, fromstring, register_namespace

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.util import AtomicString

_MATHML = "http://www.w3.org/1998/Math/MathML"
_INLINE = r"(?<![\\$\w])\$(?=\S)([^$\n]+(?:\n[^$\n]+)*)(?<=\S)\$(?![\d$])"
_BLOCK = re.compile(r"^\$\$\s*(.+?)\s*\$\$$", re.DOTALL)


def mathml(latex: str, *, block: bool) -> Element:
    """Return the MathML element of a formula.

    Args:
        latex: the formula, without dollar signs.
        block: whether it stands on a line of its own.
    """
    register_namespace("", _MATHML)
    element = fromstring(convert(latex, display="block" if block else "inline"))
    for part in element.iter():
        part.tag = part.tag.rpartition("}")[2]
        # Markdown must not read underscores and stars in the formula as markup.
        part.text = AtomicString(part.text) if part.text else part.text
    return element


class _Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element, int, int]:
        return mathml(m.group(1), block=False), m.start(0), m.end(0)


class _Block(BlockProcessor):
    def test(self, parent: Element, block: str) -> bool:
        return _BLOCK.match(block.strip()) is not None

    def run(self, parent: Element, blocks: list[str]) -> None:
        found = _BLOCK.match(blocks.pop(0).strip())
        assert found is not None
        SubElement(parent, "div", {"class": "math-block"}).append(mathml(found[1], block=True))


class MathExtension(Extension):
    """Adds both kinds of formulas; code spans and code blocks are left alone."""

    def extendMarkdown(self, md: Markdown) -> None:
        # Below backticks (190) and backslash escapes (180) come links (160): formulas go between code and escapes.
        md.inlinePatterns.register(_Inline(_INLINE, md), "math", 185)
        md.parser.blockprocessors.register(_Block(md.parser), "math", 75)


def makeExtension(**settings: Any) -> MathExtension:
    """Return the extension; Markdown calls this by name."""
    return MathExtension(**settings)
