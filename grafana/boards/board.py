"""What a dashboard is: rows of panels, variables, annotations and links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from boards.panel import DATASOURCE, Place, Row, build
from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

BOARDS = {
    "rankscope-fleet": "Rankscope / Fleet",
    "rankscope-run": "Rankscope / Run",
    "rankscope-ranks": "Rankscope / Ranks",
    "rankscope-node": "Rankscope / Node and GPU",
    "rankscope-alerts": "Rankscope / Alerts and diagnosis",
}


@dataclass(frozen=True)
class Variable:
    """Something to choose: the values of a label of a metric."""

    name: str
    label: str
    metric: str
    value: str = ""  # the label; "" where it is called like the variable
    description: str = ""
    multiple: bool = True
    all_value: str = ".+"


@dataclass(frozen=True)
class Note:
    """Vertical lines over all panels."""

    name: str
    expr: str
    colour: str
    title: str
    text: str = ""


JOB = Variable("job", "Job", "rankscope_agent_start_time_seconds", description="Scrape job of the agents.")
PROJECT = Variable("project", "Project", 'rankscope_run_info{job=~"$job"}', description="Project that runs belong to.")
RUN = Variable(
    "run", "Run", 'rankscope_run_info{job=~"$job",project=~"$project"}', description="One run, or several to compare."
)
HOSTNAME = Variable(
    "hostname", "Node", 'rankscope_agent_start_time_seconds{job=~"$job"}', description="Node that an agent runs on."
)
RANK = Variable("rank", "Rank", 'rankscope_rank_up{job=~"$job",run=~"$run"}', description="Ranks of the chosen runs.")


@dataclass(frozen=True)
class Board:
    """One dashboard. `uid` is what links lead to: it never changes."""

    uid: str
    description: str
    variables: Sequence[Variable]
    rows: Sequence[Row]
    notes: Sequence[Note] = ()
    span: str = "now-1h"

    def build(self) -> model.Dashboard:
        built = (
            dashboard.Dashboard(BOARDS[self.uid])
            .uid(self.uid)
            .description(self.description)
            .tags(["rankscope"])
            .readonly()
            .timezone("browser")
            .tooltip(model.DashboardCursorSync.CROSSHAIR)
            .time(self.span, "now")
            .refresh("10s")
            .with_variable(_datasource())
        )
        for variable in self.variables:
            built.with_variable(_variable(variable))
        for note in self.notes:
            built.annotation(_note(note))
        built.links([_menu()])
        place = Place()
        for row in self.rows:
            place.next_row()
            headline = dashboard.Row(row.title).id(place.identify()).grid_pos(place.take(24, 1))
            place.next_row()
            built.with_row(headline)
            for panel in row.panels:
                built.with_panel(build(panel, place))
        return built.build()


def _datasource() -> dashboard.DatasourceVariable:
    return (
        dashboard.DatasourceVariable("datasource")
        .label("Prometheus")
        .type("prometheus")
        .description("Where the metrics are.")
    )


def _variable(variable: Variable) -> dashboard.QueryVariable:
    query = f"label_values({variable.metric}, {variable.value or variable.name})"
    return (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .description(variable.description)
        .datasource(DATASOURCE)
        .query({"qryType": 1, "query": query, "refId": f"PrometheusVariableQueryEditor-{variable.name}"})
        .definition(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.NATURAL_ASC)
        .multi(variable.multiple)
        .include_all(True)
        .all_value(variable.all_value)
        .current(model.VariableOption(text="All", value="$__all", selected=True))
    )


def _note(note: Note) -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name(note.name)
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(note.colour)
        .expr(note.expr)
        .step("30s")
        .title_format(note.title)
        .text_format(note.text)
    )


def _menu() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("Rankscope")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags(["rankscope"])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )
