"""A picture to play with: a slider for each choice where ipywidgets is installed, the picture alone elsewhere.

What is stored in a notebook's file holds the picture in either case, so a page that only shows the file has it too.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Explorer:
    """A drawing function with the values that its arguments may take; shows itself in a notebook."""

    def __init__(self, draw: Callable[..., str], choices: dict[str, list[Any]], chosen: dict[str, Any]) -> None:
        self._draw = draw
        self._choices = choices
        self._chosen = chosen
        self.svg = draw(**chosen)
        """The picture at the defaults."""

    def __repr__(self) -> str:
        chosen = ", ".join(f"{name} = {value}" for name, value in self._chosen.items())
        return f"the picture for {chosen}; to choose by sliders: pip install ipywidgets"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """Return the picture, and the sliders where there are any: a notebook shows the best that it can."""
        del include, exclude
        return {"text/plain": repr(self), "image/svg+xml": self.svg, **self._sliders()}

    def _sliders(self) -> dict[str, Any]:
        try:
            widgets = importlib.import_module("ipywidgets")
        except ImportError:
            return {}
        sliders = {
            name: widgets.SelectionSlider(
                options=values, value=self._chosen[name], description=name.replace("_", " "), continuous_update=False
            )
            for name, values in self._choices.items()
        }
        shown = widgets.HTML(self.svg)

        def redraw(_: object) -> None:
            shown.value = self._draw(**{name: slider.value for name, slider in sliders.items()})

        for slider in sliders.values():
            slider.observe(redraw, names="value")
        bundle: dict[str, Any] = widgets.VBox([*sliders.values(), shown])._repr_mimebundle_()
        return {kind: data for kind, data in bundle.items() if kind != "text/plain"}


def explore(draw: Callable[..., str], **choices: Iterable[Any]) -> Explorer:
    """Return a picture with a slider for each of ``choices``: an argument of ``draw`` and the values that it may take.

    ``draw`` returns SVG text; it is called once now with the defaults of its arguments, and again whenever a slider has
    moved. Raises ``ValueError`` for a choice that is no argument of ``draw``, or whose default is not one of its values.
    """
    arguments = inspect.signature(draw).parameters
    chosen = {}
    several = {name: list(values) for name, values in choices.items()}
    for name, values in several.items():
        if name not in arguments or arguments[name].default not in values:
            raise ValueError(f"{name!r} must be an argument of the drawing function, its default one of {values}")
        chosen[name] = arguments[name].default
    return Explorer(draw, several, chosen)
