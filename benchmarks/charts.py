"""Charts of the HTML report as Vega-Lite specifications without their data, which the page fills in."""

from __future__ import annotations

from typing import Any

from .figures import COLORS

ROWS = "rows"
"""Name of the data that the page gives to every chart."""


ROW = 24  # pixels of a learner's line


def line_with_band(x: str, y: str, learners: list[str], level: str = "") -> dict[str, Any]:
    """Mean over ``x`` with its interval: columns ``x``, ``mean``, ``low``, ``high`` and ``learner``.

    Args:
        x: title of the axis.
        y: title of the other one.
        learners: in the order of their colors.
        level: name of further data, whose one column of that name is drawn as a dashed line.
    """
    alt = altair()
    levels = (
        [alt.Chart(alt.NamedData(level)).mark_rule(strokeDash=[4, 4], color="gray").encode(y=f"{level}:Q")]
        if level
        else []
    )
    return _finished(
        alt.layer(
            *levels,
            _base("x", x, learners)
            .mark_area(opacity=0.2)
            .encode(y=alt.Y("low:Q", title=y, scale=alt.Scale(zero=False)), y2="high:Q"),
            _base("x", x, learners)
            .mark_line(point=alt.OverlayMarkDef(size=20))
            .encode(y=alt.Y("mean:Q", title=y, scale=alt.Scale(zero=False)), tooltip=_tooltip(x, y)),
        )
    )


def points_with_interval(x: str, learners: list[str]) -> dict[str, Any]:
    """A point with its interval for every learner, in the rows' order: ``mean``, ``low``, ``high``, ``learner``."""
    alt = altair()
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        y=alt.Y("learner:N", title=None, sort=None), color=_color(learners)
    )
    scale = alt.Scale(zero=False)
    chart = _finished(
        alt.layer(
            base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=x, scale=scale), x2="high:Q"),
            base.mark_point(filled=True, size=70).encode(
                x=alt.X("mean:Q", title=x, scale=scale), tooltip=_tooltip("", x)
            ),
        )
    )
    return chart | {"height": ROW * len(learners)}


def bars(x: str, y: str) -> dict[str, Any]:
    """A histogram: columns ``x`` and ``x2`` (ends of a bin) and ``count``."""
    alt = altair()
    tooltip = [alt.Tooltip(f"{name}:Q", format=",.5~g") for name in ("x", "x2", "count")]
    chart = (
        alt.Chart(alt.NamedData(ROWS))
        .mark_bar(color=COLORS[0])
        .encode(
            x=alt.X("x:Q", title=x, bin="binned", axis=alt.Axis(tickCount=5)),
            x2="x2:Q",
            y=alt.Y("count:Q", title=y),
            tooltip=tooltip,
        )
    )
    return _finished(chart)


def altair() -> Any:
    """The package, or one sentence with the command that installs it."""
    from marlzoo.errors import MissingExtraError

    try:
        import altair
        import vl_convert  # noqa: F401 - brings the scripts that draw
    except ImportError as error:
        raise MissingExtraError(error.name or "altair", "report", "a report") from error
    return altair


def scripts() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    altair()
    import vl_convert

    bundle: Any = (
        vl_convert.javascript_bundle
    )  # its stub asks for a snippet, which the documentation does not
    return str(bundle())


def _base(field: str, title: str, learners: list[str]) -> Any:
    alt = altair()
    x = alt.X(f"{field}:Q", title=title, axis=alt.Axis(tickCount=5))
    return alt.Chart(alt.NamedData(ROWS)).encode(x=x, color=_color(learners))


def _color(learners: list[str]) -> Any:
    alt = altair()
    usable = [*COLORS[:-1], "#999999"]  # black is not seen in the dark
    colors = [usable[k % len(usable)] for k in range(len(learners))]
    return alt.Color("learner:N", scale=alt.Scale(domain=learners, range=colors), legend=None)


def _tooltip(x: str, y: str) -> list[Any]:
    alt = altair()
    at = [alt.Tooltip("x:Q", title=x, format=",.5~g")] if x else []
    ends = [alt.Tooltip(f"{name}:Q", format=",.4~g") for name in ("low", "high")]
    return [alt.Tooltip("learner:N"), *at, alt.Tooltip("mean:Q", title=y, format=",.4~g"), *ends]


def _finished(chart: Any) -> dict[str, Any]:
    """The specification, as wide as its place."""
    made: dict[str, Any] = chart.properties(width="container", height=220).to_dict(validate=True)
    return {key: value for key, value in made.items() if key != "datasets"}
