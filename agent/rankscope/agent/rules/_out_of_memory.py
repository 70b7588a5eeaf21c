"""Whether a session ended for the lack of its GPU's memory: what one rule tells of, and another leaves to it."""

from __future__ import annotations

from rankscope.agent.model import Goodbye

# As torch, NCCL, cuBLAS, cuDNN and XLA say it. The name of a class is no sign: Java and Ray have an OutOfMemoryError.
_SIGNS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "Cuda failure 2 'out of memory'",
    "Cuda failure 'out of memory'",
    "HIP out of memory",
    "HIP error: out of memory",
    "XPU out of memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "RESOURCE_EXHAUSTED: Out of memory",
)


def of_gpu(goodbye: Goodbye) -> bool:
    """Tell whether the exception says that the GPU's memory ran out."""
    return any(sign in goodbye.exception for sign in _SIGNS)
