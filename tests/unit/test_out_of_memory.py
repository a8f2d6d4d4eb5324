"""A worker without memory gives figures and advice; other errors are not changed."""

from __future__ import annotations

import pytest
import torch

from pdetr3d.config import OptimConfig
from pdetr3d.training.out_of_memory import advice, is_out_of_memory


def really_too_much() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    return caught.value


def test_pytorchs_own_error_is_known() -> None:
    assert is_out_of_memory(really_too_much())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(ValueError("out of memory"))


def test_the_advice_has_numbers_and_keys() -> None:
    said = advice(MemoryError(), "teacher", OptimConfig(batch_size=16), 2, torch.device("cpu"))
    assert said.startswith("out of memory (MemoryError): this process holds ") and " GiB are free" in said
    assert "teacher.optim.batch_size=8 (now 16" in said and "scaling.workers (now 2: 8 samples each)" in said
    one = advice(MemoryError(), "student", OptimConfig(batch_size=2), 2, torch.device("cpu"))
    assert "batch_size" not in one and "optim.amp=bf16 (now fp32)" in one
