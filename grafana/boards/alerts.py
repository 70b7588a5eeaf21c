"""What fired and how often, which rules cannot tell, and whether the agents and the SDK themselves are well."""

from __future__ import annotations

from boards.board import HOSTNAME, JOB, Board
from boards.panel import Column, Query, Row
from boards.queries import grown, on_nodes
from boards.selectors import BAD, CALM, GOOD, TO_NODE, TO_RUN, WARN
from boards.selectors import JOB as J
from boards.selectors import NODE as N
from boards.shapes import amounts, counts, states, table

FIRED = Row(
    "What fired",
    [
        table(
            "Alerts that fire",
            "One line an alert. Causes and remedies stand in the notification and on the agent's page.",
            Query(f"max by (alert, severity, run, hostname, rank, gpu) (rankscope_alert_active{{{N}}}) == 1"),
            width=12,
            empty="No alert fires",
            columns=(Column("run", link=TO_RUN), Column("hostname", link=TO_NODE)),
            hidden=("Value",),
        ),
        counts(
            "Fired in this time",
            "How often each alert began to fire. One that comes and goes needs a longer `for`.",
            Query(
                f"sort_desc(sum by (alert) ({grown(on_nodes('rankscope_alerts_total'), '$__range')}) > 0)", "{{alert}}"
            ),
            steps=((None, GOOD), (1, WARN), (10, BAD)),
            empty="No alert fired in this time",
        ),
        counts(
            "Notifications",
            "What became of them: ok, failed (the receiver refuses), dropped (nobody could be reached for long).",
            Query(
                f"sum by (receiver, outcome) (increase(rankscope_notifications_total{{{N}}}[$__range]))",
                "{{receiver}} {{outcome}}",
            ),
            steps=((None, CALM),),
            empty="No notifier is configured",
        ),
        states(
            "When alerts fired",
            "Red while firing, yellow while the condition is being watched.",
            Query(f"max by (alert, run) (rankscope_alert_active{{{N}}})", "{{alert}} {{run}}"),
            ("watching", WARN),
            ("firing", BAD),
            unit="none",
            width=12,
            empty="No alert in this time",
        ),
        amounts(
            "What the rules say",
            "Verdicts by state. `incomplete`: the rule lacks what it needs to tell, which is not the same as healthy.",
            Query(f"sum by (state) (rankscope_rule_state{{{N}}})", "{{state}}"),
            width=6,
            stacked=True,
            empty="No run to judge",
        ),
        table(
            "Rules that cannot tell",
            "They lack what they need: often a value that the training does not log.",
            Query(f'count by (rule, run) (rankscope_rule_state{{{N},state="incomplete"}})'),
            width=6,
            empty="Every rule can tell",
            hidden=("Value",),
            columns=(Column("run", link=TO_RUN),),
        ),
    ],
)

AGENTS = Row(
    "Health of the agents",
    [
        states(
            "Agents that answer",
            "From Prometheus' point of view.",
            Query(f"up{{{J}}}", "{{job}} {{instance}}"),
            ("does not answer", BAD),
            ("answers", GOOD),
            unit="none",
            width=8,
        ),
        states(
            "Samplers that see",
            "Red: the sampler fails, and what it would tell is missing, not zero.",
            Query(f"min by (hostname, sampler) (rankscope_sampler_up{{{N}}})", "{{hostname}} {{sampler}}"),
            ("blind", BAD),
            ("sees", GOOD),
            unit="none",
            width=8,
        ),
        amounts(
            "Duration of samples",
            "How long one collection takes.",
            Query(f"topk(16, rankscope_sampler_duration_seconds{{{N}}})", "{{hostname}} {{sampler}}"),
            unit="s",
            width=8,
        ),
        amounts(
            "CPU of the agents",
            "Processors in use by the agent.",
            Query(f"topk(16, rate(rankscope_agent_cpu_seconds_total{{{N}}}[$__rate_interval]))", "{{hostname}}"),
            width=6,
            unit="percentunit",
        ),
        amounts(
            "Memory of the agents",
            "Resident memory.",
            Query(f"topk(16, rankscope_agent_resident_memory_bytes{{{N}}})", "{{hostname}}"),
            width=6,
            unit="bytes",
        ),
        amounts(
            "Series",
            "Series on an agent's page; the budget is 20,000.",
            Query(f"topk(16, rankscope_agent_series{{{N}}})", "{{hostname}}"),
            width=6,
            steps=((None, "text"), (20000, BAD)),
        ),
        counts(
            "Dropped by agents",
            "What agents had to refuse, by reason: anything but zero is worth a look.",
            Query(f"sum by (reason) (increase(rankscope_agent_dropped_total{{{N}}}[$__range]))", "{{reason}}"),
            steps=((None, GOOD), (1, BAD)),
        ),
        table(
            "Versions",
            "What runs where.",
            Query(
                f"max by (hostname, version, python_version, driver_version, cuda_version) (rankscope_agent_build_info{{{N}}})"
            ),
            width=12,
            columns=(Column("hostname", link=TO_NODE),),
            hidden=("Value",),
        ),
        amounts(
            "Duration of scrapes",
            "How long Prometheus waits for an agent's page.",
            Query(f"topk(16, scrape_duration_seconds{{{J}}})", "{{job}} {{instance}}"),
            unit="s",
            width=6,
        ),
        amounts(
            "Failed collections",
            "Collections of samplers that failed.",
            Query(
                f"sum by (hostname, sampler) (increase(rankscope_sampler_errors_total{{{N}}}[$__rate_interval])) > 0",
                "{{hostname}} {{sampler}}",
            ),
            width=6,
            bars=True,
            empty="No collection failed",
        ),
        amounts(
            "Clock set",
            "How often a machine's clock was set by more than a second. What was noted moves with it.",
            Query(
                f"sum by (hostname, direction) (increase(rankscope_agent_clock_jumps_total{{{N}}}[$__rate_interval])) > 0",
                "{{hostname}} {{direction}}",
            ),
            width=12,
            bars=True,
            empty="No clock was set",
        ),
        amounts(
            "Notifications that wait",
            "Not delivered yet. What grows here has a receiver that cannot be reached.",
            Query(f"sum by (hostname, receiver) (rankscope_notifications_waiting{{{N}}})", "{{hostname}} {{receiver}}"),
            width=12,
            empty="No notifier is configured",
        ),
    ],
)

SDK = Row(
    "The SDK in the trainings",
    [
        amounts(
            "Cost of log()",
            "What one log() costs the training thread.",
            Query(f"max by (run, quantile) (rankscope_sdk_log_seconds{{{N}}})", "{{run}} quantile {{quantile}}"),
            unit="s",
            width=6,
            empty="No rank has reported",
        ),
        amounts(
            "Share of the step",
            "The SDK's time over the time of the steps.",
            Query(f"max by (run) (rankscope_sdk_overhead_ratio{{{N}}})", "{{run}}"),
            unit="percentunit",
            width=6,
            empty="No rank has reported",
        ),
        counts(
            "Points lost",
            "Points that the SDK had to drop, by reason.",
            Query(
                f"sum by (run, reason) ({grown(on_nodes('rankscope_sdk_dropped_points_total'), '$__range')})",
                "{{run}} {{reason}}",
            ),
            steps=((None, GOOD), (1, BAD)),
            empty="Nothing was lost",
        ),
        amounts(
            "Points that wait",
            "Bytes on ranks' disks that agents have not taken.",
            Query(f"sum by (run) (rankscope_sdk_journal_bytes{{{N}}})", "{{run}}"),
            unit="bytes",
            width=6,
            empty="No rank has reported",
        ),
        amounts(
            "Points taken",
            "Points a second that agents take.",
            Query(f"sum by (hostname) (rate(rankscope_ingest_points_total{{{N}}}[$__rate_interval]))", "{{hostname}}"),
            unit="ops",
            width=12,
            empty="No run yet",
        ),
        amounts(
            "Lag",
            "From log() to the agent's state.",
            Query(f"max by (run) (rankscope_ingest_lag_seconds{{{N}}})", "{{run}}"),
            unit="s",
            width=12,
            empty="No run yet",
        ),
    ],
)

BOARD = Board(
    "rankscope-alerts",
    "What fired, how often, which rules cannot tell, and whether agents and SDK themselves are well.",
    [JOB, HOSTNAME],
    [FIRED, AGENTS, SDK],
    span="now-6h",
)
