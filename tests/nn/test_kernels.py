"""Which layers are computed by Triton kernels, depending on the machine and torch's settings."""

import logging
from types import SimpleNamespace

import pytest
import torch

from neurocnn.nn import convolution, kernels


def test_without_a_compiler_torchs_operations_are_used_and_one_warning_is_logged(monkeypatch, caplog):
    runtime = pytest.importorskip("triton", reason="triton is not installed").runtime
    tried = []

    class Driver:
        def get_current_device(self):
            tried.append(1)
            raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(runtime, "driver", SimpleNamespace(active=Driver()))
    kernels._has_driver.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "neurocnn"):
            assert [kernels.has_triton() for _ in range(3)] == [False] * 3
    finally:
        kernels._has_driver.cache_clear()
    assert tried == [1]
    (record,) = caplog.records
    assert "RuntimeError: Failed to find C compiler" in record.getMessage()
    assert "expected a C compiler and the headers of Python" in record.getMessage()


def test_a_compiled_function_uses_the_answer(monkeypatch):
    monkeypatch.setattr(kernels, "_has_driver", lambda: True)
    function = torch.compile(
        lambda x: x + 1 if kernels.has_triton() else x, fullgraph=True, backend="eager", dynamic=False
    )
    assert function(torch.zeros(2)).tolist() == [1, 1]


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_kernels_that_round_are_used_only_if_torch_may_round(precision):
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.cudnn.conv.fp32_precision = precision
        assert convolution._allows_rounding() == (precision == "tf32")
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    with torch.backends.cudnn.flags(allow_tf32=precision == "tf32"):
        assert convolution._allows_rounding() == (precision == "tf32")
