"""The table of tasks itself."""

from dataclasses import replace

import pytest

from tasks import KINDS, METRICS, TASKS, find_task


@pytest.mark.parametrize("name", TASKS)
def test_a_row_of_the_table_is_complete(name, data_args):
    task = TASKS[name]
    assert task.name == name
    assert task.metric in METRICS
    assert bool(task.sources) != bool(task.generator)
    assert all("/" in source.path for source in task.sources)  # the hub's cache is keyed by the namespaced id
    assert set(task.columns) <= set(task.kind.flags)
    found = find_task(task.kind.name, data_args(task.kind.name, dataset_name=name))
    assert replace(found, tokenizer=None) == task


def test_no_spelling_means_two_tasks_except_a_shared_repository():
    seen = {}
    for task in TASKS.values():
        for spelling in {task.name, *task.aliases}:
            assert seen.setdefault(spelling, task) is task


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_kind_names_arguments_that_exist(kind, data_args):
    args = data_args(kind.name)
    assert kind.reads.keys() == kind.flags.keys()
    for flag in (kind.source_limit, kind.target_limit, *kind.flags.values()):
        assert hasattr(args, flag)
    assert kind.metric in METRICS
