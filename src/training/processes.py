"""What several processes of one job tell each other; with one process, nothing."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed


def process_count() -> int:
    """Processes of this job."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_index() -> int:
    """This process among them, from 0, the main one."""
    return distributed.get_rank() if process_count() > 1 else 0


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if process_count() > 1:
        distributed.barrier()


def end_together() -> None:
    """The processes end their connections together: one that ended with them open may abort at its exit."""
    if distributed.is_available() and distributed.is_initialized():
        wait_for_all()
        distributed.destroy_process_group()


def everywhere(condition: Tensor) -> bool:
    """Whether a condition, a tensor of one boolean on the job's device, holds in all processes."""
    if process_count() > 1:
        condition = condition.int()
        distributed.all_reduce(condition, distributed.ReduceOp.MIN)
    return bool(condition)


def sum_over_processes(numbers: list[int], device: torch.device) -> list[int]:
    """The same numbers, each summed over all processes."""
    if process_count() == 1:
        return numbers
    total = torch.tensor(numbers, device=device)
    distributed.all_reduce(total)
    return total.tolist()


def by_main(function: Callable[[], Any]) -> Any:
    """What `function()` returns in the main process, in every process; an exception there is raised in all."""
    if process_count() == 1:
        return function()
    box = [None, None]
    if process_index() == 0:
        try:
            box = [function(), None]
        except Exception as error:  # sent on, so that nobody waits for a process that is gone
            box = [None, error]
    distributed.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return box[0]


def from_all(value: list) -> list:
    """The lists of all processes, one after the other."""
    if process_count() == 1:
        return value
    lists = [None] * process_count()
    distributed.all_gather_object(lists, value)
    return [item for each in lists for item in each]
