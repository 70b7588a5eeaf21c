"""Accelerate: `Accelerator(log_with=RankscopeTracker())`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate.tracking import GeneralTracker  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

from rankscope import sdk
from rankscope.sdk import _session


class RankscopeTracker(GeneralTracker):  # type: ignore[misc] # pyright: ignore[reportUntypedBaseClass]
    """Logs what `accelerator.log()` is given, on every rank; `init_trackers` names the project and its configuration.

    Begins a run with `init_trackers`, unless `sdk.init()` has begun one.
    """

    name = "rankscope"
    requires_logging_directory = False
    main_process_only = False

    def __init__(self, project: str | None = None, run_name: str | None = None) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.project = project
        self.run_name = run_name

    @property
    def tracker(self) -> Any:
        return sdk

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        if _session.current is None:
            sdk.init(self.project, self.run_name, values)

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        if _session.current is None:
            sdk.init(self.project, self.run_name)
        texts = {name: value for name, value in values.items() if isinstance(value, str)}
        sdk.log({name: value for name, value in values.items() if name not in texts}, step=step)
        for name, value in texts.items():
            sdk.text(name, value, step=step)

    def log_images(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        for name, images in values.items():
            for i, image in enumerate(images):
                sdk.image(f"{name}/{i}" if len(images) > 1 else name, image, step=step)

    def log_table(
        self,
        table_name: str,
        columns: Any = None,
        data: Any = None,
        dataframe: Any = None,
        step: int | None = None,
        **kwargs: Any,
    ) -> None:
        rows: list[Any] = [columns, *(data or [])]
        sdk.table(table_name, dataframe if dataframe is not None else rows, step=step)

    def finish(self) -> None:
        sdk.finish()
