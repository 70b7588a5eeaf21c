"""The numbers of NVML's fields, which are not the same in every driver."""

from __future__ import annotations

import re

from rankscope.agent.samplers._nvml.api import nvml

_THROTTLED = tuple(
    f"NVML_FI_DEV_CLOCKS_EVENT_REASON_{reason}"
    for reason in ("SW_THERM_SLOWDOWN", "HW_THERM_SLOWDOWN", "HW_POWER_BRAKE_SLOWDOWN")
)


def field_number(name: str, driver: str) -> int | None:
    """Return the number of a field in a driver of this version; None where there is no such field.

    Drivers 575 to 580.65 count throttled time by numbers that mean power smoothing in all others, and the other way
    round, as nvidia-ml-py 12.575.51, 13.580.65 and 13.580.82 show: what is read by the number of the wrong one is
    something else. Drivers before 575 do not count it.
    """
    if name not in _THROTTLED:
        number: int | None = getattr(nvml, name, None)
        return number
    version = tuple(int(part) for part in re.findall(r"\d+", driver)[:2])
    if version < (575,):
        return None
    return (269 if version >= (580, 82) else 251) + _THROTTLED.index(name)
