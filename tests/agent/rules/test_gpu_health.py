"""GpuHardwareError, GpuThrottled, GpuHot and AgentBlind: each fires and stays silent."""

from __future__ import annotations

import pytest

from rankscope.agent.model import Incomplete
from rankscope.agent.rules._xid import MEANINGS
from rankscope.agent.rules.agent_blind import AgentBlind
from rankscope.agent.rules.gpu_hardware_error import GpuHardwareError
from rankscope.agent.rules.gpu_hot import GpuHot
from rankscope.agent.rules.gpu_throttled import GpuThrottled
from tests.agent.rules.machine import GPU, Key, Machine, findings


def hardware(machine: Machine) -> list[tuple[str, str | None]]:
    found = findings(GpuHardwareError().check(machine.node, None, machine.now))
    return [(finding.labels["problem"], finding.severity) for finding in found]


HEALTHY: dict[Key, float] = {
    ("gpu_ecc_errors_total", *GPU, "uncorrected"): 0.0,
    ("gpu_row_remap_failed", *GPU): 0.0,
    ("gpu_row_remap_pending", *GPU): 0.0,
    ("gpu_recovery_action", *GPU): 0.0,
    ("gpu_nvlink_links_up", *GPU): 18.0,
    ("gpu_pcie_link_width", *GPU): 16.0,
    ("gpu_pcie_link_width_max", *GPU): 16.0,
    ("gpu_utilization_ratio", *GPU): 0.9,
}


def test_a_healthy_card_is_silent() -> None:
    assert hardware(Machine().live(100, lambda _: HEALTHY)) == []


@pytest.mark.parametrize(
    ("xid", "severity"),
    [
        *((xid, "critical") for xid in ("48", "62", "64", "74", "79", "95", "119", "120", "140", "171")),
        *((xid, "warning") for xid in ("63", "92", "94", "109")),
    ],
)
def test_an_xid_fires_in_its_tier_and_is_explained(xid: str, severity: str) -> None:
    machine = Machine().live(20, lambda _: {**HEALTHY, ("gpu_xid_last_timestamp_seconds", *GPU, xid): 5.0})
    (finding,) = findings(GpuHardwareError().check(machine.node, None, machine.now))
    assert (finding.severity, finding.gpu, finding.labels["xid"]) == (severity, "0", xid)
    assert f"XID {xid}" in finding.summary
    assert "rank 0 of exp-1" in finding.summary, "whose training it hits"
    assert finding.causes[0].fix


def test_every_error_that_concerns_a_training_has_a_text_and_a_tier() -> None:
    """A program's own errors are in none, and 154 is `gpu_recovery_action`."""
    rule = GpuHardwareError()
    tiers = (*rule.critical, *rule.warning)
    assert len(set(tiers)) == len(tiers), "in one tier only"
    faults = {48, 62, 63, 64, 74, 79, 92, 94, 95, 109, 119, 120, 136, 140, 143, *range(145, 151), 156, 157, 158}
    faults |= {167, 171, 172}
    assert faults <= set(tiers)
    assert {*tiers, 13, 31, 43, 45, 154} <= MEANINGS.keys()
    assert not {13, 31, 43, 45, 154} & set(tiers)


@pytest.mark.parametrize("xid", ["13", "31", "43", "45"])
def test_a_program_that_is_at_fault_itself_is_no_hardware_error(xid: str) -> None:
    assert hardware(Machine().live(20, lambda _: {**HEALTHY, ("gpu_xid_last_timestamp_seconds", *GPU, xid): 5.0})) == []


def test_an_xid_is_over_after_its_window() -> None:
    machine = Machine().live(650, lambda _: {**HEALTHY, ("gpu_xid_last_timestamp_seconds", *GPU, "79"): 5.0})
    assert hardware(machine) == []


def test_memory_errors_are_critical_while_they_grow_and_a_warning_after() -> None:
    errors: Key = ("gpu_ecc_errors_total", *GPU, "uncorrected")
    machine = Machine().live(100, lambda t: {**HEALTHY, errors: 3.0 if t >= 50 else 0.0})
    assert hardware(machine) == [("ecc", "critical")]
    assert hardware(machine.live(650, lambda _: {**HEALTHY, errors: 3.0})) == [("ecc", "warning")]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({("gpu_row_remap_failed", *GPU): 1.0}, ("row_remap", None)),
        ({("gpu_row_remap_pending", *GPU): 1.0}, ("row_remap", "warning")),
        ({("gpu_recovery_action", *GPU): 2.0}, ("recovery", None)),
        ({("gpu_pcie_link_width", *GPU): 4.0}, ("pcie", "warning")),
    ],
)
def test_other_faults(changed: dict[Key, float], expected: tuple[str, str | None]) -> None:
    assert hardware(Machine().live(100, lambda _: {**HEALTHY, **changed})) == [expected]


def test_an_nvlink_that_went_down_is_told_and_one_that_never_was_up_is_not() -> None:
    links: Key = ("gpu_nvlink_links_up", *GPU)
    assert hardware(Machine().live(50, lambda t: {**HEALTHY, links: 18.0 if t < 25 else 17.0})) == [("nvlink", None)]
    assert hardware(Machine().live(50, lambda _: {**HEALTHY, links: 12.0})) == []


def test_an_nvlink_stays_down_until_it_is_up_again() -> None:
    """For hours, though the window of what was sampled is shorter."""
    rule, machine = GpuHardwareError(), Machine()

    def problems(links: float, seconds: int) -> list[str]:
        values: dict[Key, float] = {**HEALTHY, ("gpu_nvlink_links_up", *GPU): links}
        machine.live(seconds, lambda _: values)
        return [finding.labels["problem"] for finding in findings(rule.check(machine.node, None, machine.now))]

    assert problems(18.0, 10) == []
    assert problems(17.0, 1500) == ["nvlink"]
    assert problems(18.0, 10) == []


@pytest.mark.parametrize(("action", "asks"), [(1, "a reset"), (5, "IMEX domain"), (6, "bus"), (7, "whole system")])
def test_a_recovery_that_the_driver_asks_for_is_named(action: int, asks: str) -> None:
    machine = Machine().live(5, lambda _: {**HEALTHY, ("gpu_recovery_action", *GPU): float(action)})
    (finding,) = findings(GpuHardwareError().check(machine.node, None, machine.now))
    assert asks in finding.summary
    assert asks in finding.causes[0].fix


def test_an_idle_cards_narrow_link_saves_power() -> None:
    idle: dict[Key, float] = {**HEALTHY, ("gpu_pcie_link_width", *GPU): 4.0, ("gpu_utilization_ratio", *GPU): 0.0}
    assert hardware(Machine().live(100, lambda _: idle)) == []


def test_without_gpus_hardware_is_not_judged() -> None:
    assert isinstance(GpuHardwareError().check(Machine().node, None, 0.0), Incomplete)


def throttled(machine: Machine, **fields: object) -> list[tuple[str, float]]:
    rule = GpuThrottled(**fields)  # type: ignore[arg-type]
    found = findings(rule.check(machine.node, None, machine.now))
    return [(finding.labels["reason"], round(finding.value or 0, 2)) for finding in found]


def test_clocks_that_heat_cuts_are_told_with_their_share_of_the_time() -> None:
    seconds: Key = ("gpu_throttle_seconds_total", *GPU, "hw_thermal")
    clocks: dict[Key, float] = {("gpu_clock_hertz", *GPU, "sm"): 1.2e9, ("gpu_clock_max_hertz", *GPU, "sm"): 1.98e9}
    machine = Machine().live(320, lambda t: {**clocks, seconds: 0.8 * t})
    assert throttled(machine) == [("hw_thermal", 0.8)]
    (finding,) = findings(GpuThrottled().check(machine.node, None, machine.now))
    assert "1200 of 1980 MHz" in finding.summary


def test_older_cards_are_judged_by_what_the_sampler_saw() -> None:
    active: Key = ("gpu_throttle_active", *GPU, "hw_power_brake")
    assert throttled(Machine().live(320, lambda t: {active: float(t % 3 != 0)})) == [("hw_power_brake", 0.67)]


def test_short_cuts_and_the_power_limit_are_no_matter() -> None:
    values: dict[Key, float] = {
        ("gpu_throttle_active", *GPU, "sw_power_cap"): 1.0,
        ("gpu_throttle_active", *GPU, "sw_thermal"): 1.0,
    }
    hot: Key = ("gpu_throttle_active", *GPU, "hw_thermal")
    machine = Machine().live(320, lambda t: {**values, hot: float(t > 250)})
    assert throttled(machine) == []
    assert throttled(machine, reasons=("sw_power_cap",)) == [("sw_power_cap", 1.0)]


def test_throttling_is_not_judged_before_its_window_is_full() -> None:
    machine = Machine().live(60, lambda _: {("gpu_throttle_active", *GPU, "hw_thermal"): 1.0})
    assert isinstance(GpuThrottled().check(machine.node, None, machine.now), Incomplete)


@pytest.mark.parametrize(
    ("values", "sensors"),
    [
        ({("gpu_temperature_margin_celsius", *GPU): 2.0, ("gpu_temperature_celsius", *GPU, "gpu"): 84.0}, ["gpu"]),
        ({("gpu_temperature_margin_celsius", *GPU): 12.0, ("gpu_temperature_celsius", *GPU, "gpu"): 91.0}, []),
        ({("gpu_temperature_slowdown_celsius", *GPU): 92.0, ("gpu_temperature_celsius", *GPU, "gpu"): 90.0}, ["gpu"]),
        ({("gpu_temperature_slowdown_celsius", *GPU): 92.0, ("gpu_temperature_celsius", *GPU, "gpu"): 88.0}, []),
        ({("gpu_temperature_celsius", *GPU, "gpu"): 88.0}, ["gpu"]),
        (
            {("gpu_temperature_celsius", *GPU, "gpu"): 70.0, ("gpu_temperature_celsius", *GPU, "memory"): 97.0},
            ["memory"],
        ),
    ],
)
def test_hot_is_what_the_card_itself_calls_hot(values: dict[Key, float], sensors: list[str]) -> None:
    machine = Machine().live(70, lambda _: values)
    assert [f.labels["sensor"] for f in findings(GpuHot().check(machine.node, None, machine.now))] == sensors


def test_a_moment_of_heat_is_no_matter() -> None:
    machine = Machine().live(70, lambda t: {("gpu_temperature_celsius", *GPU, "gpu"): 70.0 if t == 60 else 90.0})
    assert findings(GpuHot().check(machine.node, None, machine.now)) == []


def test_a_sampler_that_fails_makes_the_agent_blind_until_it_succeeds() -> None:
    machine = Machine().live(5, lambda _: {})
    assert AgentBlind().check(machine.node, None, machine.now) == ()
    machine.node.fail("gpu", "the driver of GPU 0 did not answer in time")
    (finding,) = findings(AgentBlind().check(machine.node, None, machine.now + 20))
    assert finding.labels == {"sampler": "gpu"}
    assert "did not answer in time" in finding.summary
    assert "for 20 s" in finding.summary
    machine.live(1, lambda _: {})
    assert AgentBlind().check(machine.node, None, machine.now) == ()


def test_one_card_that_does_not_answer_is_named() -> None:
    machine = Machine().live(5, lambda _: {("gpu_up", "1", "GPU-1"): 0.0})
    (finding,) = findings(AgentBlind().check(machine.node, None, machine.now))
    assert (finding.gpu, finding.severity) == ("1", "critical")
    assert finding.causes[0].evidence == "NVML answers for 1 other GPUs and not for this one"


def test_a_sampler_that_never_succeeded_says_since_when() -> None:
    machine = Machine()
    machine.node.fail("disk", "no answer within 5 s")
    (finding,) = findings(AgentBlind().check(machine.node, None, machine.now))
    assert finding.causes[0].evidence == "no success since the agent started"


def test_a_sampler_that_is_asked_once_a_minute_is_believed_for_as_long() -> None:
    """Else what it found would come and go each minute; one that hung once is believed no longer for it."""
    values = {("gpu_row_remap_failed", *GPU): 1.0}
    machine = Machine().live(300, lambda _: values, every=60)
    for _ in range(60):
        machine.now += 1
        assert len(hardware(machine)) == 1
    machine = Machine().live(100, lambda _: values)
    machine.now += 300
    machine.live(3, lambda _: values)
    machine.now += 40
    assert isinstance(GpuHardwareError().check(machine.node, None, machine.now), Incomplete)
