"""Selectors that panels share: they follow the dashboard's variables."""

from __future__ import annotations

JOB = 'job=~"$job"'
NODE = f'{JOB},hostname=~"$hostname"'
RUN = f'{JOB},run=~"$run"'
RANK = f'{RUN},rank=~"$rank"'

TO_RUN = "/d/rankscope-run?var-datasource=${datasource}&var-job=${job:queryparam}&var-run=${__data.fields.run}"
TO_NODE = "/d/rankscope-node?var-datasource=${datasource}&var-hostname=${__data.fields.hostname}"
LINE_TO_RUN = "/d/rankscope-run?var-datasource=${datasource}&var-run=${__field.labels.run}&${__url_time_range}"
LINE_TO_RANKS = "/d/rankscope-ranks?var-datasource=${datasource}&var-run=${__field.labels.run}&${__url_time_range}"
LINE_TO_NODE = (
    "/d/rankscope-node?var-datasource=${datasource}&var-hostname=${__field.labels.hostname}&${__url_time_range}"
)

GOOD, CALM, WARN, BAD = "green", "blue", "yellow", "red"


def of_ranks(gpu_metric: str, ranks: str = RUN) -> str:
    """Return a GPU's metric with run and rank of each rank that is on it (several ranks may share a GPU).

    `gpu_metric` has one series a uuid.
    """
    return f'rankscope_rank_info{{{ranks},uuid!=""}} * on (job, uuid) group_left () ({gpu_metric})'
