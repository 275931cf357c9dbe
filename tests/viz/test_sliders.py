"""A picture with sliders is a picture first; the sliders come where ipywidgets is there."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from raykv.viz import explore


def picture(r: int = 2, w: int = 2) -> str:
    return f"<svg>{r} and {w}</svg>"


def test_without_ipywidgets_it_is_the_picture_at_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    bundle = explore(picture, r=(1, 2, 3), w=(1, 2, 3))._repr_mimebundle_()
    assert bundle["image/svg+xml"] == "<svg>2 and 2</svg>"
    assert bundle["text/plain"] == "the picture for r = 2, w = 2; to choose by sliders: pip install ipywidgets"
    assert set(bundle) == {"image/svg+xml", "text/plain"}


def test_a_slider_that_moves_draws_again_and_the_stored_picture_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Slider(SimpleNamespace):
        def observe(self, told: Any, names: str) -> None:
            assert names == "value"
            self.told = told

        def move(self, value: Any) -> None:
            assert value in self.options
            self.value = value
            self.told(object())

    class Box(SimpleNamespace):
        def _repr_mimebundle_(self) -> dict[str, Any]:
            return {"text/plain": "VBox()", "application/vnd.jupyter.widget-view+json": {"model_id": "1"}}

    def remembered(kind: type, given: dict[str, Any]) -> Any:
        made.append(kind(**given))
        return made[-1]

    fake = ModuleType("ipywidgets")
    fake.SelectionSlider = lambda **given: remembered(Slider, given)  # type: ignore[attr-defined]
    fake.HTML = lambda value: remembered(SimpleNamespace, {"value": value})  # type: ignore[attr-defined]
    fake.VBox = lambda children: Box(children=children)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ipywidgets", fake)

    bundle = explore(picture, r=iter((1, 2, 3)), w=range(1, 4))._repr_mimebundle_()
    r, w, shown = made
    assert bundle["application/vnd.jupyter.widget-view+json"] == {"model_id": "1"}
    assert "sliders" in bundle["text/plain"]
    assert (r.description, r.value, w.options) == ("r", 2, [1, 2, 3])
    r.move(3)
    w.move(1)
    assert shown.value == "<svg>3 and 1</svg>"
    assert bundle["image/svg+xml"] == "<svg>2 and 2</svg>"


@pytest.mark.parametrize("choices", [{"n": (1, 2)}, {"r": (1, 3)}, {"r": ()}])
def test_a_choice_that_cannot_be_drawn_is_refused(choices: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="must be an argument of the drawing function"):
        explore(picture, **choices)
