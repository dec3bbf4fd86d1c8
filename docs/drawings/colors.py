"""The colours of all pictures, each for light and for dark pages.

The hues are Okabe and Ito's, which colour-blind people can tell apart. A picture brings its own background, so that it
can be read where a page is dark and the browser does not tell the picture so.
"""

from typing import NamedTuple

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


class Color(NamedTuple):
    """One colour on a light and on a dark page."""

    light: str
    dark: str


COLORS = {
    "card": Color("#ffffff", "#161a21"),
    "ink": Color("#1f2328", "#e6edf3"),
    "faint": Color("#59636e", "#a3adb8"),
    "edge": Color("#8c959f", "#6b7683"),
    "grid": Color("#d9dee3", "#333b45"),
    "cell": Color("#dcebf7", "#1d3a52"),
    "other": Color("#f0f2f4", "#262d36"),
    "state": Color("#0072b2", "#58b4ec"),
    "handover": Color("#008a64", "#2fc79a"),
    "late": Color("#d55e00", "#ff9a52"),
    "gradient": Color("#b3478a", "#e58fc3"),
}
"""By what is drawn. ``ink`` is also what passes within a step, ``state`` what passes from step to step."""


def style(rules: str) -> str:
    """A style sheet for both kinds of pages: of ``rules``, in which ``$state`` stands for that colour, and so on."""

    def filled(dark: bool) -> str:
        text = rules
        for name in sorted(COLORS, key=len, reverse=True):
            text = text.replace(f"${name}", COLORS[name][dark])
        return text

    dark_lines = "\n".join("  " + line for line in filled(True).splitlines() if "#" in line)
    return f"{filled(False)}\n@media (prefers-color-scheme: dark) {{\n{dark_lines}\n}}"
