"""In which numbers a model computes, and where."""

import pytest
import torch

from util.compute_args import DTYPES, ComputeArguments


@pytest.mark.parametrize("dtype", DTYPES)
def test_names_are_those_of_torch(dtype):
    args = ComputeArguments(dtype=dtype, device="cpu")
    assert args.compute_problems() == [] and str(args.torch_dtype) == f"torch.{dtype}"
    assert args.torch_device == torch.device("cpu")


def test_what_is_not_there_is_said():
    told = ComputeArguments(dtype="int8", device="tpu9").compute_problems()
    assert told[0] == "--dtype int8: valid are float32, bfloat16, float16."
    assert told[1].startswith("--device tpu9 is not there: valid on this machine are cpu")
