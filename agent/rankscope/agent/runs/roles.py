"""What a number is, whatever it is called: the roles that rules and dashboards look for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

ROLES: Mapping[str, tuple[str, ...]] = {
    "loss": ("loss", "train_loss", "train/loss", "training_loss"),
    "val_loss": ("val_loss", "val/loss", "eval_loss", "eval/loss", "valid_loss", "validation_loss"),
    "lr": ("lr", "learning_rate", "train/learning_rate", "train/lr"),
    "grad_norm": ("grad_norm", "train/grad_norm", "gradient_norm", "gnorm"),
    "grad_norm_share": ("grad_norm_share",),
    "samples_per_second": ("samples_per_second", "samples_per_sec", "train/samples_per_second", "throughput"),
    "tokens_per_second": ("tokens_per_second", "tokens_per_sec", "train/tokens_per_second"),
    "accuracy": ("accuracy", "acc", "train/accuracy", "train_accuracy"),
    "val_accuracy": ("val_accuracy", "val/accuracy", "eval_accuracy", "eval/accuracy", "val_acc"),
    "epoch": ("epoch", "train/epoch"),
    "grad_scale": ("grad_scale", "loss_scale", "amp_scale", "scaler_scale"),
    "data_seconds": ("data_seconds", "data_s", "data_time"),
    "forward_seconds": ("forward_seconds", "forward_s"),
    "backward_seconds": ("backward_seconds", "backward_s"),
    "optimizer_seconds": ("optimizer_seconds", "optimizer_s"),
    "step_seconds": ("step_seconds", "step_s", "step_time"),
    "gpu_utilization": ("gpu_utilization", "gpu_util"),
    "dead_fraction": ("dead_fraction", "dead_frac", "dead_frac_max"),
    "saturated_fraction": ("saturated_fraction", "saturated_frac"),
    "unchanged_fraction": ("unchanged_fraction", "unchanged_frac"),
    "update_ratio": ("update_ratio",),
    "first_layer_grad_norm": ("first_layer_grad_norm", "grad_norm_first"),
    "last_layer_grad_norm": ("last_layer_grad_norm", "grad_norm_last"),
    "rank_step_seconds": ("rank_step_seconds", "rank_step_s"),
    "samples": ("samples_seen", "consumed_samples", "train/samples_seen"),
    "tokens": ("tokens_seen", "consumed_tokens", "num_input_tokens_seen", "train/num_input_tokens_seen"),
    "skipped_steps": ("skipped_steps", "train/skipped_steps"),
    "flops_utilization": ("flops_utilization", "mfu", "train/mfu"),
    "gpu_memory_allocated": ("gpu_memory_allocated_bytes", "memory_allocated_bytes", "memory/allocated_bytes"),
    "gpu_memory_peak": ("gpu_memory_peak_bytes", "max_memory_allocated_bytes", "memory/peak_bytes"),
}

_FOLD = str.maketrans("", "", "/.-_ ")


def fold(name: str) -> str:
    """Return the form in which names are compared: no case, no `/ . - _`."""
    return name.translate(_FOLD).casefold()


class Roles:
    """Finds the role of a name. `more` adds names to roles, as `roles:` in the configuration does."""

    def __init__(self, more: Mapping[str, Iterable[str]] | None = None) -> None:
        self._role_of: dict[str, str] = {}
        for table in (ROLES, more or {}):
            for role, names in table.items():
                for name in names:
                    self._role_of[fold(name)] = role

    def of(self, name: str) -> str | None:
        """Return the role of a series' name, or None."""
        return self._role_of.get(fold(name))
