"""In which numbers a model computes, and where."""

from dataclasses import dataclass

import torch

from util import groups
from util.additional_args import flag
from util.checks import device_problems

DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class ComputeArguments:
    """In which numbers a model computes, and where; a part of other arguments."""

    _argument_group_name = groups.MODEL

    dtype: str = flag("float32", f"Of the weights: {', '.join(DTYPES)}.")
    device: str | None = flag(None, "cpu, cuda or cuda:1; a GPU where there is one.")

    def compute_problems(self) -> list[str]:
        """A sentence on each of these that cannot be."""
        valid = f"valid are {', '.join(DTYPES)}."
        problems = [] if self.dtype in DTYPES else [f"--dtype {self.dtype}: {valid}"]
        return problems + device_problems(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        """That of the weights."""
        return getattr(torch, self.dtype)

    @property
    def torch_device(self) -> torch.device:
        """The one that was asked for, else a GPU where there is one."""
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
