"""What a panel is, and how Grafana is told: declared in a few words, built with the foundation SDK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Kind = Literal["timeseries", "stat", "table", "heatmap", "timeline", "bars"]

DATASOURCE = common_model.DataSourceRef(type_val="prometheus", uid="${datasource}")
BUILDERS: dict[Kind, Any] = {
    "timeseries": timeseries.Panel,
    "stat": stat.Panel,
    "table": table.Panel,
    "heatmap": heatmap.Panel,
    "timeline": statetimeline.Panel,
    "bars": bargauge.Panel,
}


@dataclass(frozen=True)
class Query:
    """One question to Prometheus; `name` says in a table what its value is."""

    expr: str
    legend: str = ""
    name: str = ""


@dataclass(frozen=True)
class Column:
    """How a column of a table looks: unit, thresholds, link."""

    name: str
    unit: str = ""
    steps: Sequence[tuple[float | None, str]] = ()
    link: str = ""
    words: Sequence[tuple[float, str, str]] = ()  # value, text, colour


@dataclass(frozen=True)
class Panel:
    """One panel. `steps`: colours from a value on, the first from None. `empty`: what an empty answer means."""

    title: str
    description: str
    queries: Sequence[Query]
    kind: Kind = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    steps: Sequence[tuple[float | None, str]] = ((None, "text"),)
    words: Sequence[tuple[float, str, str]] = ()  # value, text, colour
    minimum: float | None = None
    maximum: float | None = None
    stacked: bool = False
    bars: bool = False
    empty: str = ""
    columns: Sequence[Column] = ()
    hidden: Sequence[str] = ()
    links: Sequence[tuple[str, str]] = ()
    dashed: str = ""  # lines whose name matches are dashed
    decimals: int | None = None
    logarithmic: bool = False


@dataclass
class Row:
    """A headline and the panels below it."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


@dataclass
class Place:
    """Where the next panel goes: panels are set from left to right on a grid of 24 columns."""

    identity: int = 0
    x: int = 0
    y: int = 0
    tall: int = 0

    def take(self, width: int, height: int) -> model.GridPos:
        if self.x + width > 24:
            self.x, self.y, self.tall = 0, self.y + self.tall, 0
        position = model.GridPos(h=height, w=width, x=self.x, y=self.y)
        self.x += width
        self.tall = max(self.tall, height)
        return position

    def next_row(self) -> None:
        self.x, self.y, self.tall = 0, self.y + self.tall, 0

    def identify(self) -> int:
        self.identity += 1
        return self.identity


def thresholds(steps: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    built = [model.Threshold(value=value, color=colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(built)


def value_map(words: Sequence[tuple[float, str, str]]) -> list[model.ValueMap]:
    options = {
        f"{value:g}": model.ValueMappingResult(text=text, color=colour, index=i)
        for i, (value, text, colour) in enumerate(words)
    }
    return [model.ValueMap(options=options)]


def build(panel: Panel, place: Place) -> Any:
    """Return the panel as the SDK builds it, at its place."""
    built = (
        BUILDERS[panel.kind]()
        .id(place.identify())
        .title(panel.title)
        .description(panel.description)
        .datasource(DATASOURCE)
        .unit(panel.unit)
        .thresholds(thresholds(panel.steps))
        .grid_pos(place.take(panel.width, panel.height))
        .targets([target(panel, query, i) for i, query in enumerate(panel.queries)])
    )
    if panel.empty:
        built.no_value(panel.empty)
    if panel.minimum is not None:
        built.min(panel.minimum)
    if panel.maximum is not None:
        built.max(panel.maximum)
    if panel.decimals is not None:
        built.decimals(panel.decimals)
    if panel.words:
        built.mappings(value_map(panel.words))
    if panel.links:
        built.data_links([model_link(title, url) for title, url in panel.links])
    SHAPES[panel.kind](built, panel)
    return built


def model_link(title: str, url: str) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(title).url(url)


def target(panel: Panel, query: Query, index: int) -> prometheus.Dataquery:
    instant = panel.kind in ("stat", "table", "bars")
    shape = {"table": PromQueryFormat.TABLE, "heatmap": PromQueryFormat.HEATMAP}.get(
        panel.kind, PromQueryFormat.TIME_SERIES
    )
    built = prometheus.Dataquery().ref_id(chr(65 + index)).expr(query.expr).datasource(DATASOURCE).format(shape)
    built.instant() if instant else built.range()
    if query.legend:
        built.legend_format(query.legend)
    return built


def _timeseries(built: timeseries.Panel, panel: Panel) -> None:
    built.tooltip(
        common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI).sort(common_model.SortOrder.DESCENDING)
    )
    built.legend(_legend())
    built.line_width(1.5 if not panel.stacked else 1).fill_opacity(35 if panel.stacked else 0)
    built.show_points(common_model.VisibilityMode.NEVER).span_nulls(60_000)
    built.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    if panel.logarithmic:
        built.scale_distribution(common.ScaleDistributionConfig().type(common_model.ScaleDistribution.LOG).log(10))
    if panel.stacked:
        built.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL))
    if panel.bars:
        built.draw_style(common_model.GraphDrawStyle.BARS).fill_opacity(60)
    if any(value is not None for value, _ in panel.steps):
        built.thresholds_style(common.GraphThresholdsStyleConfig().mode(common_model.GraphThresholdsStyleMode.DASHED))
    if panel.dashed:
        style = {"fill": "dash", "dash": [8, 6]}
        built.override_by_regexp(panel.dashed, [model.DynamicConfigValue("custom.lineStyle", style)])


def _stat(built: stat.Panel, panel: Panel) -> None:
    built.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    built.graph_mode(common_model.BigValueGraphMode.NONE).color_mode(common_model.BigValueColorMode.VALUE)
    built.text_mode(
        common_model.BigValueTextMode.VALUE_AND_NAME if _named(panel) else common_model.BigValueTextMode.VALUE
    )
    built.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))


def _bars(built: bargauge.Panel, panel: Panel) -> None:
    built.orientation(common_model.VizOrientation.HORIZONTAL).display_mode(common_model.BarGaugeDisplayMode.BASIC)
    built.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    built.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))


def _timeline(built: statetimeline.Panel, panel: Panel) -> None:
    built.row_height(0.85).show_value(common_model.VisibilityMode.NEVER).merge_values(True).fill_opacity(80)
    built.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    built.legend(_legend())


def _heatmap(built: heatmap.Panel, panel: Panel) -> None:
    built.calculate(False).color(heatmap.HeatmapColorOptions().scheme("Oranges").mode("scheme").steps(64).exponent(0.5))
    built.y_axis(heatmap.YAxisConfig().unit(panel.unit).axis_placement(common_model.AxisPlacement.LEFT))
    built.filter_values(heatmap.FilterValueRange().le(1e-9))


def _table(built: table.Panel, panel: Panel) -> None:
    built.show_header(True).cell_height(common_model.TableCellHeight.SM)
    if len(panel.queries) > 1:
        built.with_transformation(model.DataTransformerConfig("merge", {}))
    renamed = {
        f"Value #{chr(65 + i)}" if len(panel.queries) > 1 else "Value": query.name
        for i, query in enumerate(panel.queries)
    }
    hidden = dict.fromkeys(("Time", "job", "__name__", "instance", *panel.hidden), True)
    for column, name in list(renamed.items()):
        if not name:
            hidden[column] = True
            del renamed[column]
    options = {"excludeByName": hidden, "renameByName": renamed, "indexByName": {}}
    built.with_transformation(model.DataTransformerConfig("organize", options))
    for column in panel.columns:
        built.override_by_name(column.name, column_properties(column))


def column_properties(column: Column) -> list[model.DynamicConfigValue]:
    found: list[model.DynamicConfigValue] = []
    if column.unit:
        found.append(model.DynamicConfigValue("unit", column.unit))
    if column.steps:
        found.append(model.DynamicConfigValue("thresholds", thresholds(column.steps).build()))
        found.append(model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
    if column.words:
        found.append(model.DynamicConfigValue("mappings", value_map(column.words)))
        found.append(model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
    if column.link:
        found.append(model.DynamicConfigValue("links", [{"title": "Open", "url": column.link}]))
    return found


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(common_model.LegendDisplayMode.LIST)
        .placement(common_model.LegendPlacement.BOTTOM)
        .calcs([])
    )


def _named(panel: Panel) -> bool:
    return any(query.legend for query in panel.queries)


SHAPES: dict[Kind, Any] = {
    "timeseries": _timeseries,
    "stat": _stat,
    "bars": _bars,
    "timeline": _timeline,
    "heatmap": _heatmap,
    "table": _table,
}
