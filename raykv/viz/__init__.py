"""Pictures as SVG text: they need no library and no browser plug-in, and a notebook shows them directly."""

from raykv.viz.figures import bars_svg, lines_svg, timeline_svg
from raykv.viz.history import Span, history_svg
from raykv.viz.ladder import ladder_html, ladder_svg, ladder_text
from raykv.viz.merkle import merkle_svg
from raykv.viz.ring import ownership_svg, ring_svg
from raykv.viz.sliders import Explorer, explore
from raykv.viz.storage import runs_svg, touched_svg
from raykv.viz.versions import siblings_svg, versions_svg
from raykv.viz.wheel import wheel_svg

__all__ = [
    "Explorer", "Span", "bars_svg", "explore", "history_svg", "ladder_html", "ladder_svg", "ladder_text", "lines_svg",
    "merkle_svg", "ownership_svg", "ring_svg", "runs_svg", "siblings_svg", "timeline_svg", "touched_svg", "versions_svg",
    "wheel_svg",
]  # fmt: skip
