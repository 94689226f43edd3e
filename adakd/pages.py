"""The look of a report: from its parts to Markdown, to one HTML file, and to a terminal."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from adakd import plots


class Cell(NamedTuple):
    value: str
    detail: str = ""  # an interval
    tone: str = ""  # "better", "worse", "open" or nothing
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.detail}".strip()


Line = Sequence[Cell | str]  # of a table


class Part(NamedTuple):
    """A piece of a report, which is written from top to bottom for both of its forms."""

    kind: str  # as in `markdown` and `page`
    content: Any


class Figure(NamedTuple):
    png: bytes
    title: str
    caption: str


def aligned(lines: Sequence[Line]) -> str:
    """A table in columns for a terminal."""
    texts = [[str(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    ruled = [texts[0], ["-" * width for width in widths], *texts[1:]]
    written = []
    for line in ruled:
        first = line[0].ljust(widths[0])
        rest = [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        written.append("  ".join([first, *rest]).rstrip())
    return "\n".join(written)


def markdown(title: str, parts: Sequence[Part]) -> str:
    """A report without its figures."""
    written = [f"# {title}"]
    for kind, content in parts:
        if kind in ("heading", "subheading"):
            written.append(f"{'##' if kind == 'heading' else '###'} {content}")
        elif kind == "warning":
            written.append(f"**{content}**")
        elif kind == "words":
            written.append(content)
        elif kind == "said":
            written += content
        elif kind == "list":
            written.append("\n".join(f"- {line}" for line in content))
        elif kind == "facts":
            written.append("\n".join(f"- {name}: {value}" for name, value in content))
        elif kind == "table":
            written.append(markdown_table(content))
        elif kind == "details":
            written += [f"## {content[0]}", markdown_table(content[1])]
        elif kind == "code":
            written.append(f"```\n{content}\n```")
    return "\n\n".join(written) + "\n"


def markdown_table(lines: Sequence[Line]) -> str:
    texts = [[str(cell) for cell in line] for line in lines]
    ruled = [texts[0], ["---", *["---:"] * (len(texts[0]) - 1)], *texts[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)


STYLE = """
:root { color-scheme: light; --ink: #1f2937; --muted: #6b7280; --line: #e5e7eb; --soft: #f8fafb;
  --better: #00694c; --worse: #a63d00; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.015em; }
h2 { font-size: 1.25rem; margin: 3rem 0 .8rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.8rem 0 .5rem; }
p { max-width: 46rem; margin: 0 0 .9rem; }
.meta, .notes, figcaption, .detail { color: var(--muted); }
.meta { margin-bottom: 2rem; }
.headline p { font-size: 1.05rem; max-width: none; }
.warning { border-left: 4px solid #E69F00; background: #fffaf0; padding: .8rem 1.1rem;
  margin: 0 0 1.5rem; border-radius: 0 6px 6px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: .93rem; }
th, td { padding: .45rem .6rem; text-align: right; white-space: nowrap; vertical-align: baseline; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--muted); font-weight: 500; font-size: .82rem; white-space: normal;
  border-bottom: 1px solid #9ca3af; }
tbody th { font-weight: 600; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.detail { display: block; font-size: .8rem; line-height: 1.3; }
.better { color: var(--better); font-weight: 600; }
.worse { color: var(--worse); font-weight: 600; }
.better .detail, .worse .detail { font-weight: 400; }
.notes { font-size: .87rem; padding-left: 1.1rem; margin-top: 1.6rem; max-width: 50rem; }
.notes li { margin-bottom: .25rem; }
figure { margin: 0 0 2.8rem; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { font-size: .9rem; max-width: 46rem; margin-top: .5rem; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px;
  padding: .9rem 1.1rem; font-size: .87rem; white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.4rem; margin: 1rem 0 0;
  font-size: .93rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: 1.2rem; } summary { cursor: pointer; color: var(--muted); }
@media print { main { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } }
"""


def page(title: str, meta: str, parts: Sequence[Part]) -> str:
    """One HTML file that needs nothing from outside itself."""
    body = [f"<h1>{escape(title)}</h1>", f'<p class="meta">{escape(meta)}</p>']
    for kind, content in parts:
        if kind in ("heading", "subheading"):
            tag = "h2" if kind == "heading" else "h3"
            body.append(f"<{tag}>{escape(content)}</{tag}>")
        elif kind == "warning":
            body.append(f'<p class="warning">{escape(content)}</p>')
        elif kind == "words":
            body.append(f"<p>{typeset(content)}</p>")
        elif kind == "said":
            sentences = "\n".join(f"<p>{_emphasised(each)}</p>" for each in content)
            body.append(f'<div class="headline">{sentences}</div>')
        elif kind == "list":
            items = "".join(f"<li>{typeset(line)}</li>" for line in content)
            body.append(f'<ul class="notes">{items}</ul>')
        elif kind == "facts":
            facts = "".join(
                f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in content
            )
            body.append(f"<dl>{facts}</dl>")
        elif kind == "table":
            body.append(html_table(content))
        elif kind == "details":
            summary = f"<summary>{escape(content[0])}</summary>"
            body.append(f"<details>{summary}{html_table(content[1])}</details>")
        elif kind == "figure":
            body.append(html_figure(content))
        elif kind == "code":
            body.append(f"<pre>{escape(content)}</pre>")
    content = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>AdaKD: {escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{content}\n</main>\n</body>\n</html>\n"
    )


def html_figure(figure: Figure) -> str:
    """A figure within the page, its picture too."""
    picture = base64.b64encode(figure.png).decode()
    width = int.from_bytes(figure.png[16:20], "big") * 96 // plots.DOTS_PER_INCH
    return (
        f"<h2>{escape(figure.title)}</h2>\n<figure>"
        f'<img src="data:image/png;base64,{picture}" width="{width}" '
        f'alt="{escape(figure.title)}"><figcaption>{typeset(figure.caption)}</figcaption>'
        "</figure>"
    )


def typeset(text: str) -> str:
    """Escaped, with true minus signs and percent signs that stay with their number."""
    return _minus(text).replace(" %", "&nbsp;%").replace("(x - t)", "(x \u2212 t)")


def _emphasised(sentences: str) -> str:
    """What stands before the first colon is what the sentences are about."""
    about, _, rest = sentences.partition(":")
    return f"<strong>{escape(about)}</strong>:{typeset(rest)}"


def html_table(lines: Sequence[Line]) -> str:
    """A table whose first column is names."""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in lines[0])
    body = []
    for label, *rest in lines[1:]:
        columns = [f"<th>{escape(str(label))}</th>"]
        for cell in rest:
            value, detail, tone, hint = cell if isinstance(cell, Cell) else Cell(cell)
            detail = f'<span class="detail">{_minus(detail)}</span>' if detail else ""
            hint = f' title="{escape(hint)}"' if hint else ""
            tone = f' class="{tone}"' if tone else ""
            columns.append(f"<td{tone}{hint}>{_minus(value)}{detail}</td>")
        body.append(f"<tr>{''.join(columns)}</tr>")
    rows = "\n".join(body)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _minus(text: str) -> str:
    """Escaped, with true minus signs before numbers."""
    return re.sub(r"(?<!\w)-(?=\d)", "\u2212", escape(text))
