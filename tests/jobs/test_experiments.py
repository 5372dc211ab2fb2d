"""The tables of experiments, and what a grid makes of them."""

import pytest

from decoding.policy import Policy
from jobs.experiments import exit_flag, layers_of, pick, policy_arguments, read_methods, read_settings, read_table

METHODS, SETTINGS = read_methods(), read_settings()


def test_a_table_has_a_name_per_line_and_quotes_as_a_shell(tmp_path):
    (tmp_path / "table.txt").write_text('# nothing\none\ntwo  --a "b c" --d\n\n')
    assert read_table(tmp_path / "table.txt") == {"one": [], "two": ["--a", "b c", "--d"]}


def policy_of(flags: list[str]) -> Policy:
    """With its first exit at layer 2, where it has one."""
    layer = [exit_flag(flags), "2"] if exit_flag(flags) else []
    return policy_arguments(SETTINGS["facts_trained"], [*flags, *layer]).policy()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_policy_of_its_own_on_every_setting_of_the_embedded_model(method):
    policies = {name: policy_of(flags) for name, flags in METHODS.items()}
    policies[method].check(8)
    assert list(policies.values()).count(policies[method]) == 1


def test_methods_have_the_exit_min_layers_that_leave_something_to_do():
    assert layers_of(METHODS["full"], 8) == [None]
    assert layers_of(METHODS["softmax"], 8) == list(range(1, 8))
    assert layers_of(METHODS["FREE"], 8) == list(range(1, 8))
    assert layers_of(METHODS["JSD_fixed"], 8) == list(range(1, 7))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_parses_and_names_its_model_and_data(name):
    model_args, data_args, _, _ = SETTINGS[name].arguments("--do_eval")
    assert model_args.model_name_or_path and data_args.dataset_name


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("squad_pretrained", "google-t5/t5-large"),
        ("squad_finetuned", "jvelja/t5-squad"),
        ("samsum_pretrained", "google-t5/t5-large"),
        ("samsum_finetuned", "jvelja/t5-samsum"),
    ],
)
def test_the_published_settings(name, model):
    model_args, data_args, training_args, _ = SETTINGS[name].arguments("--do_eval")
    assert model_args.model_name_or_path == model
    assert data_args.repetition_penalty == 1.2 and data_args.max_eval_samples == 100
    assert training_args.per_device_eval_batch_size == 1


def test_an_unknown_name_is_refused_with_the_valid_ones():
    assert list(pick(None, METHODS, "method")) == list(METHODS)
    assert list(pick(["JSD"], METHODS, "method")) == ["JSD"]
    with pytest.raises(ValueError, match=r"softmx: no such method; valid are full, softmax"):
        pick(["softmx"], METHODS, "method")
