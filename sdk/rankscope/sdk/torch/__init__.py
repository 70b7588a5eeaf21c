"""What needs torch: watching a model, and its graph. Nothing else of the SDK imports it."""

from rankscope.sdk.torch._watch import watch

__all__ = ["watch"]
