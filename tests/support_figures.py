"""What no figure may have: texts that run into each other, legends over what is drawn, series that look alike."""

from itertools import combinations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

SLACK = 1.0  # pixels: boxes of texts have a rim


def problems(figure: Figure) -> list[str]:
    """A sentence for each."""
    figure.canvas.draw()
    found = [*_texts(figure), *_legends(figure), *(each for axes in figure.axes for each in _alike(axes))]
    plt.close(figure)
    return found


def _texts(figure: Figure) -> list[str]:
    hidden = _never_drawn(figure)
    texts = _written(figure)
    boxes = [(text.get_text(), _inner(text.get_window_extent())) for text in texts if text not in hidden]
    page = figure.bbox.padded(SLACK)
    outside = [f"{text!r} is cut off" for text, box in boxes if not _within(box, page)]
    return outside + [f"{a!r} over {b!r}" for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]


def _written(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def _never_drawn(figure: Figure) -> set[Text]:
    """Labels of ticks outside of what an axis shows."""
    found = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                found |= {tick.label1, tick.label2}
    return found


def _inner(box: Bbox) -> Bbox:
    return Bbox.from_extents(box.x0 + SLACK, box.y0 + SLACK, box.x1 - SLACK, box.y1 - SLACK)


def _within(box: Bbox, page: Bbox) -> bool:
    return page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1


def _legends(figure: Figure) -> list[str]:
    """Legends over panels, over texts that are not their own, and over each other."""
    legends = figure.findobj(Legend)
    boxes = [legend.get_window_extent() for legend in legends]
    own = {text for legend in legends for text in legend.findobj(Text)} | _never_drawn(figure)
    texts = [text for text in _written(figure) if text not in own]
    others = [("a panel", axes.get_window_extent()) for axes in figure.axes]
    others += [(repr(text.get_text()), text.get_window_extent()) for text in texts]
    found = [f"a legend over {name}" for box in boxes for name, other in others if _inner(box).overlaps(_inner(other))]
    return found + ["a legend over a legend" for one, other in combinations(boxes, 2) if one.overlaps(other)]


def _alike(axes: Axes) -> list[str]:
    """Of the series a panel has names for, pairs that nothing but a colour tells apart."""
    handles, labels = axes.get_legend_handles_labels()
    looks = [(label, _look(handle)) for handle, label in zip(handles, labels, strict=True)]
    return [f"{a} and {b} look alike in grey" for (a, one), (b, other) in combinations(looks, 2) if one == other != ()]


def _look(handle) -> tuple:
    if isinstance(handle, ErrorbarContainer):
        handle = handle.lines[0]
    if isinstance(handle, BarContainer):
        return (handle.patches[0].get_hatch(),)
    if hasattr(handle, "get_marker"):
        return handle.get_marker(), str(handle._unscaled_dash_pattern)
    return ()
