from types import SimpleNamespace

import pytest

from decoding.confidence import CONFIDENCES
from decoding.policy import Policy
from decoding.pruning import VOCABULARIES
from support import FREQUENT


def test_a_config_without_flags_is_the_full_model():
    policy = Policy.from_config(SimpleNamespace())
    assert policy == Policy()
    assert not policy.exits
    assert list(policy.exit_layers(8)) == []


def test_flags_in_a_config_become_choices():
    config = SimpleNamespace(
        use_early_exit=True,
        exit_conf_type="entropy",
        exit_conf_threshold=0.6,
        exit_position_temp=4.0,
        exit_min_layer=3,
        max_answer_length=20,
    )
    assert Policy.from_config(config) == Policy(
        confidence="entropy", vocabulary="none", threshold=0.6, temperature=4.0, length=20, first_exit=3
    )


def test_exits_stand_from_the_first_to_the_last_but_one():
    assert list(Policy(confidence="softmax", first_exit=3).exit_layers(6)) == [3, 4, 5]
    assert list(Policy(confidence="softmax").exit_layers(4)) == [1, 2, 3]


def test_state_tries_no_exit_at_the_first_layer():
    assert list(Policy(confidence="state").exit_layers(4)) == [2, 3]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"confidence": "softmax", "threshold": 1.5}, "0 to 1"),
        ({"confidence": "softmax", "threshold": -0.1}, "0 to 1"),
        ({"confidence": "sofmax"}, ", ".join(CONFIDENCES)),
        ({"confidence": "softmax", "static_exit": 2}, "exclude each other"),
        ({"confidence": "softmax", "first_exit": 0}, "exit_min_layer"),
        ({"static_exit": 0}, "static_exit_layer is 0: valid are 1 and above"),
        ({"vocabulary": "some"}, "none"),
        ({"confidence": "softmax", "temperature": -1.0}, "exit_position_temp"),
    ],
)
def test_contradictions_are_refused_with_what_would_be_valid(settings, words):
    with pytest.raises(ValueError, match=words):
        Policy(**settings)


def test_a_single_exit_leaves_nothing_to_prune():
    Policy(confidence="softmax", vocabulary="fixed", first_exit=2).check(4)
    with pytest.raises(ValueError, match="single exit and nothing to prune"):
        Policy(confidence="softmax", vocabulary="fixed", first_exit=3).check(4)


def test_every_measure_that_reads_probabilities_composes_with_every_pruning_and_threshold():
    for name, measure in CONFIDENCES.items():
        for vocabulary in VOCABULARIES:
            settings = {"confidence": name, "vocabulary": vocabulary, "threshold": 0.5, "temperature": 4.0}
            if vocabulary == "frequent":
                settings |= FREQUENT
            if measure.reads_logits or vocabulary == "none":
                Policy(**settings).check(6)
            else:
                with pytest.raises(ValueError, match="reads no probabilities"):
                    Policy(**settings)


@pytest.mark.parametrize("policy", [Policy(confidence="softmax", first_exit=4), Policy(static_exit=5)])
def test_exits_the_model_does_not_have_are_refused(policy):
    with pytest.raises(ValueError, match="valid are 1 to"):
        policy.check(4)


def test_several_problems_are_told_together():
    with pytest.raises(ValueError, match=r"exit_conf_threshold.*exit_min_layer"):
        Policy(confidence="softmax", threshold=2.0, first_exit=0)


def test_description_names_every_setting():
    described = Policy(confidence="softmax", threshold=0.9).describe()
    assert described["method"] == "early_exit"
    assert described["threshold"] == 0.9
    assert not {"k", "copy_share", "alpha", "emit"} & set(described), "settings of choices that were not made"
    pruned = Policy(
        confidence="JSD_contrastive_confidence", vocabulary="fixed", threshold=0.9, k=7, alpha=0.2
    ).describe()
    assert pruned["k"] == 7 and pruned["alpha"] == 0.2 and pruned["emit"] == "exit"
    assert Policy(static_exit=3).describe() == {"method": "static", "static_exit": 3}
    assert Policy().describe() == {"method": "full"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"threshold": "high"}, "threshold is 'high': valid is a number."),
        ({"first_exit": 4.5}, "first_exit is 4.5: valid is a whole number."),
        ({"static_exit": True}, "static_exit is True: valid is a whole number or None."),
        ({"confidence": CONFIDENCES["softmax"]}, "valid is a text or None."),
        ({"adapts": "False"}, "adapts is 'False': valid is True or False."),
    ],
)
def test_a_value_of_another_type_is_refused(settings, sentence):
    with pytest.raises(ValueError) as refused:
        Policy(**settings)
    assert str(refused.value).endswith(sentence)


@pytest.mark.parametrize("name", ["use_early_exit", "use_shallow_deep", "lossless", "use_adapt_threshold"])
def test_a_config_whose_switch_is_a_text_is_refused(name):
    exits = {"use_shallow_deep": True, "shallow_exit_layer": 1}
    with pytest.raises(ValueError, match=f"{name} is 'False': valid is True or False"):
        Policy.from_config(SimpleNamespace(**{**exits, name: "False"}))


ONE_EXIT = {"first_exit": 2, "last_exit": 2}


@pytest.mark.parametrize(
    ("settings", "several", "one"),
    [
        (
            {"confidence": "softmax", "threshold": 7.0},
            "exit_conf_threshold is 7.0",
            "shallow2deep_conf_threshold is 7.0",
        ),
        ({"confidence": "sofmax"}, "exit_conf_type is 'sofmax'", "shallow2deep_conf_type is 'sofmax'"),
        (
            {"confidence": "softmax", "emit": "contrastive"},
            "needs a contrastive exit_conf_type",
            "needs a contrastive shallow2deep_conf_type",
        ),
        ({"confidence": "softmax", "static_exit": 1}, "and use_early_exit exclude", "and use_shallow_deep exclude"),
    ],
)
def test_a_policy_speaks_of_the_flags_it_was_made_of(settings, several, one):
    with pytest.raises(ValueError, match=several):
        Policy(**settings)
    with pytest.raises(ValueError, match=one) as raised:
        Policy(**settings, **ONE_EXIT)
    assert several not in str(raised.value).split()


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (Policy(confidence="softmax", first_exit=4), "exit_min_layer is 4, but"),
        (Policy(confidence="softmax", first_exit=4, last_exit=4), "shallow_exit_layer is 4, but"),
        (
            Policy(confidence="softmax", vocabulary="fixed", first_exit=3),
            "exit_min_layer 3 of 4 layers there is a single exit",
        ),
        (
            Policy(confidence="softmax", vocabulary="fixed", **ONE_EXIT),
            "shallow_exit_layer 2 of 4 layers there is a single exit",
        ),
        (
            Policy(confidence="state", first_exit=1, last_exit=1),
            "with shallow_exit_layer 1 of 4 layers no token would ever leave",
        ),
    ],
)
def test_layers_are_refused_under_the_name_of_their_flag(policy, told):
    with pytest.raises(ValueError, match=told):
        policy.check(4)


def test_more_tokens_than_the_model_knows_are_refused_but_in_the_formula():
    for name in ("k", "k_min"):
        Policy(confidence="softmax", vocabulary="decaying", **{name: 61}).check(4, 61)
        with pytest.raises(ValueError, match=f"{name} is 62, but the model knows 61 tokens: valid are 2 to 61"):
            Policy(confidence="softmax", vocabulary="decaying", **{name: 62}).check(4, 61)
    Policy(confidence="softmax", vocabulary="decaying", k_max=35000).check(4, 61)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["threshold", "temperature", "adaptive_scale", "alpha", "rollback_threshold"])
def test_numbers_that_are_none_are_refused(name, value):
    with pytest.raises(ValueError, match="valid are"):
        Policy(confidence="softmax", skipped="recompute", **{name: value})
