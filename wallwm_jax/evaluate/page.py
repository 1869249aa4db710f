"""Small pieces of HTML: escaping, tables, images in the page, and the page around them."""

import base64
import html
from collections.abc import Sequence

STYLE = """
:root { --ink: #1f2933; --soft: #5c6770; --line: #e3e7eb; --accent: #d9480f; --card: #ffffff; --page: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 36px 24px 72px; }
header h1 { font-size: 30px; margin: 0 0 6px; letter-spacing: -0.02em; }
header p { font-size: 16px; color: var(--soft); margin: 0 0 22px; max-width: 76ch; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 22px 26px; margin: 22px 0; }
h2 { font-size: 20px; margin: 0 0 4px; letter-spacing: -0.01em; }
h3 { font-size: 15px; margin: 0; }
section > p { color: var(--soft); max-width: 88ch; margin: 4px 0 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 16px; }
.tile b { display: block; white-space: nowrap; font-size: 19px; line-height: 1.25; letter-spacing: -0.02em; }
.tile span { color: var(--soft); font-size: 13px; display: block; line-height: 1.4; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--soft); border-bottom: 1.5px solid var(--line);
  padding: 6px 10px; }
td { text-align: right; border-bottom: 1px solid var(--line); padding: 6px 10px; }
th:first-child, td:first-child { text-align: left; }
td.best { color: var(--accent); font-weight: 650; }
.scroll { overflow-x: auto; }
figure { margin: 14px 0 6px; }
figure img { max-width: 100%; height: auto; display: block; }
.motion { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 22px 26px; }
.motion img { width: 100%; max-width: 384px; height: auto; display: block; margin-bottom: 6px; }
.film { margin: 20px 0 26px; }
.film small { color: var(--soft); display: block; margin-bottom: 4px; }
.row { display: flex; gap: 16px; overflow-x: auto; }
.row img { display: block; }
.side { flex: 0 0 40px; font-size: 11px; color: var(--soft); display: flex; flex-direction: column; padding: 18px 0; }
.side em { font-style: normal; flex: 1; display: flex; align-items: center; }
.side em.ours { color: var(--accent); font-weight: 600; }
.times { display: flex; font-size: 11px; line-height: 18px; color: var(--soft); }
.times span { text-align: center; flex: none; }
.view { font-size: 11px; line-height: 18px; color: var(--soft); text-transform: uppercase; letter-spacing: 0.06em; }
details summary { cursor: pointer; color: var(--soft); }
code { font: 12.5px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
footer { color: var(--soft); font-size: 13px; }
"""


def escape(text: object) -> str:
    return html.escape(str(text))


def number(value: float | None, digits: int = 1) -> str:
    """With so many digits after the point; a dash for none and for NaN."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def image(data: bytes, kind: str = "png", alternative: str = "", width: int | None = None) -> str:
    """An image inside the page, `width` CSS pixels wide."""
    size = f' width="{width}"' if width else ""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img src="{source}" alt="{escape(alternative)}"{size}>'


def figure(data: bytes, alternative: str) -> str:
    return f"<figure>{image(data, 'png', alternative)}</figure>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML; one that starts with `*` is marked as the best of its row."""
    first = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(cell: str) -> str:
    return f'<td class="best">{cell[1:]}</td>' if cell.startswith("*") else f"<td>{cell}</td>"


def section(title: str, explanation: str, *parts: str) -> str:
    """A card with a heading and a short explanation (HTML)."""
    return f"<section><h2>{escape(title)}</h2><p>{explanation}</p>{''.join(parts)}</section>"


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Large numbers with a line of meaning each."""
    cells = "".join(f'<div class="tile"><b>{number}</b><span>{meaning}</span></div>' for number, meaning in values)
    return f'<div class="tiles">{cells}</div>'


def document(title: str, introduction: str, *parts: str) -> str:
    """The whole page; it refers to nothing outside itself."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1><p>{introduction}</p></header>{''.join(parts)}</main></body></html>"
    )
