#!/usr/bin/env python3
"""Draws docs/images/quality.svg, perplexity against cached bytes, from the first table of docs/quality.md
that has the columns bytes and perplexity. Standard library only; run it after that table changes."""
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 380, 64, 20, 44, 54
UNCOMPRESSED = 6144
HIGHEST = 38  # a point above it stands at the upper edge, with its number
KINDS = (("palu", "#b4441c", "Palu (whitening)"), ("none", "#59635e", "no factors"),
         ("ours", "#0b6e4f", "this project"))


def rows():
    """(bytes, perplexity, kind) of each measured checkpoint."""
    with open(os.path.join(HERE, "..", "quality.md"), encoding="utf-8") as file:
        table = re.search(r"\| bytes \|.*perplexity.*\n\|[-|]+\|\n((?:\|.*\n)+)", file.read()).group(1)
    out = []
    for line in table.strip().split("\n"):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        arguments = cells[-1]
        kind = ("none" if "no compression" in arguments else
                "palu" if "--method palu" in arguments else "ours")
        out.append((int(cells[0].replace(",", "")), float(cells[2].split()[0]), kind))
    return out


def draw(measured):
    points = [point for point in measured if point[0] < UNCOMPRESSED]
    whole = next(p for b, p, _ in measured if b == UNCOMPRESSED)
    low, high = whole - 0.3, HIGHEST + 0.3
    most = max(b for b, _, _ in points) * 1.08

    def x(value):
        return LEFT + (WIDTH - LEFT - RIGHT) * value / most

    def y(value):
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
           'font-family="DejaVu Sans, sans-serif" font-size="12">',
           '<title>Perplexity against bytes of one cached token</title>',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>']
    for step in range(int(low) + 1, int(high) + 1):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(step):.1f}" y2="{y(step):.1f}" '
                   'stroke="#e3e3dc"/>'
                   f'<text x="{LEFT - 8}" y="{y(step) + 4:.1f}" text-anchor="end">{step}</text>')
    for part in (8, 4, 2):
        at = x(UNCOMPRESSED / part)
        out.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
                   'stroke="#e3e3dc"/>'
                   f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                   f'{UNCOMPRESSED // part} = 1/{part}</text>')
    out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(whole):.1f}" y2="{y(whole):.1f}" '
               'stroke="#1d2320" stroke-dasharray="5 4"/>'
               f'<text x="{WIDTH - RIGHT}" y="{y(whole) + 16:.1f}" text-anchor="end">'
               f'uncompressed, {UNCOMPRESSED} bytes: {whole:.2f}</text>')
    for size, perplexity, kind in points:
        color = {name: shade for name, shade, _ in KINDS}[kind]
        out.append(f'<circle cx="{x(size):.1f}" cy="{y(min(perplexity, HIGHEST)):.1f}" r="5" '
                   f'fill="{color}">'
                   f'<title>{size} bytes, perplexity {perplexity}</title></circle>')
        if perplexity > HIGHEST:
            out.append(f'<text x="{x(size) + 10:.1f}" y="{y(HIGHEST) + 4:.1f}" fill="{color}">'
                       f'↑ {perplexity:.1f}</text>')
    for number, (_, color, name) in enumerate(KINDS):
        out.append(f'<circle cx="{LEFT + 8 + 170 * number}" cy="20" r="5" fill="{color}"/>'
                   f'<text x="{LEFT + 18 + 170 * number}" y="24">{name}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
               'bytes of one cached token, scales and zeros counted</text>'
               f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
               'text-anchor="middle">perplexity (lower is better)</text></svg>')
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    picture = draw(rows())
    with open(os.path.join(HERE, "quality.svg"), "w", encoding="utf-8") as target:
        target.write(picture)
