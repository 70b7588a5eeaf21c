"""What can be set about alerts: the section `alerts` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rankscope.agent.model import Seconds


@dataclass(frozen=True, slots=True)
class Settings:
    """How alerts are gathered, repeated, resolved and delivered."""

    group_wait: Seconds = 0.4
    """How long the first notification of a group waits for more ranks and devices with the same problem."""
    group_interval: Seconds = 10.0
    """The least time between two notifications of one group."""
    repeat_interval: Seconds = 4 * 3600.0
    """How often a group that still fires is announced again."""
    resolve_after: Seconds = 5.0
    """How long a condition must be gone before its alert is resolved, where its rule says nothing else."""
    flap_window: Seconds = 1800.0
    """Each time that an alert fired within this time doubles how long its condition must be gone next time."""
    resolve_after_most: Seconds = 600.0
    """What that doubling ends at."""
    inhibit: bool = True
    """Whether a cause silences the alerts about what follows from it."""
    inhibit_linger: Seconds = 30.0
    """How long the silence outlasts its cause, so that what follows from it has time to go away as well."""
    abandon_after: Seconds = 900.0
    """An alert that no rule has judged for so long (its rule is off, its run never came back) is resolved."""
    user_alert_lasts: Seconds = 300.0
    """How long an alert that the training script raised itself stays active."""
    user_alerts: int = 16
    """How many of those with different titles a run may have active; more are refused, and counted."""
    external_url: str = ""
    """Where people reach this agent's page; empty: `http://<hostname>:` and the port that it listens on."""
    runbook: str = "{external_url}/#rule-{alertname}"
    """Where people read what to do about an alert; `{alertname}` and `{external_url}` are filled in."""
    queue: int = 1000
    """How many notifications may wait for one receiver; beyond that the oldest are dropped, and counted."""
    queue_age: Seconds = 24 * 3600.0
    """How long a notification may wait for a receiver before it is dropped, and counted."""
    retry_first: Seconds = 0.5
    """How long after a failed delivery the next one is tried; doubles with each failure, with jitter."""
    retry_longest: Seconds = 60.0
    """What that doubling ends at, unless the receiver asks for more."""
    send_timeout: Seconds = 30.0
    """How long one delivery may take, whatever the notifier's own timeout says."""
    page: str = field(default="", init=False)
    """Where this agent's page is while `external_url` says nothing else; no key of the file."""

    def at(self, page: str) -> Settings:
        """Return these settings for an agent whose page is at `page`."""
        here = replace(self)
        object.__setattr__(here, "page", page)
        return here
