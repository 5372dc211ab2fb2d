import re

import pytest
from transformers import GPT2Config, MT5Config, T5Config

from decoding.confidence import CONFIDENCES
from decoding.policy import Policy
from util import AdditionalArguments, exit_layers_of, update_autoconfig
from util.checks import LATER


def tiny_config(**more):
    return T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=2, num_decoder_layers=6, num_heads=2, vocab_size=32, **more)


# Settings, and a part of each sentence that refuses them.
REFUSED = [
    ({"use_early_exit": True, "static_exit_layer": 2}, ["--static_exit_layer and --use_early_exit"]),
    ({"use_early_exit": True, "use_shallow_deep": True}, ["--use_early_exit and --use_shallow_deep"]),
    ({"exit_conf_type": "softmax", "use_shallow_deep": True}, ["--exit_conf_type does not apply"]),
    ({"exit_conf_threshold": -0.1}, ["--exit_conf_threshold -0.1"]),
    ({"exit_conf_threshold": 1.01}, ["--exit_conf_threshold 1.01"]),
    ({"exit_conf_threshold": float("nan")}, ["--exit_conf_threshold nan"]),
    ({"exit_position_temp": -1.0}, ["--exit_position_temp -1.0"]),
    ({"exit_conf_type": "confidence"}, ["--exit_conf_type confidence", *CONFIDENCES]),
    ({"exit_min_layer": 0}, ["--exit_min_layer 0"]),
    ({"static_exit_layer": 0}, ["--static_exit_layer 0"]),
    ({"parallel_gen_token": False}, ["--parallel_gen_token False", "valid is True"]),
    (
        {"train_meta_cm_head": True, "intermediate_loss_fn": "weighted_ce"},
        ["--train_meta_cm_head and --intermediate_loss_fn"],
    ),
    (
        {"exit_conf_threshold": 2.0, "exit_min_layer": 0, "distill_layer_alpha": -3.0},
        ["--exit_conf_threshold", "--exit_min_layer", "--distill_layer_alpha -3.0: valid are finite numbers from 0"],
    ),
    ({"use_shallow_deep": True}, ["use_shallow_deep needs a shallow_exit_layer"]),
    (
        {"use_shallow_deep": True, "shallow_exit_layer": 2, "copy_skipped_hidden_states": True, "lossless": True},
        ["--copy_skipped_hidden_states True never runs", "--lossless needs them"],
    ),
    (
        {"use_early_exit": True, "rollback_conf_threshold": 1.0},
        ["rollback_conf_threshold needs skipped layers to be run later on", "--skipped_states recompute"],
    ),
    ({"use_early_exit": True, "num_speculations": 3}, ["num_speculations needs skipped layers"]),
    ({"use_early_exit": True, "lossless": True, "num_speculations": 0}, ["--num_speculations 0: valid are 1"]),
    ({"use_early_exit": True, "lossless": True, "skipped_states": "copy"}, ["lossless needs skipped layers"]),
    ({"use_early_exit": True, "lossless": True, "parallel_causal_mask": False}, ["needs parallel_causal_mask True"]),
    ({"use_early_exit": True, "lossless": True, "rollback_conf_threshold": 1.0}, ["exclude each other"]),
    ({"use_early_exit": True, "lossless": True, "exit_conf_type": "oracle"}, ["The oracle", "skipped_states copy"]),
    ({"use_early_exit": True, "skipped_states": "ignore"}, ["skipped_states is 'ignore': valid are copy, recompute"]),
    (
        {"use_early_exit": True, "skipped_states": "recompute", "use_adapt_threshold": True},
        ["use_adapt_threshold is fitted to one exit"],
    ),
    ({"type_vocab_reduct": "some"}, ["type_vocab_reduct is 'some'", "none, fixed, decaying, adaptive"]),
    ({"k": 1}, ["--k 1: valid are 2 and above"]),
    ({"k_min": 9, "k_max": 8}, ["k_min is 9 and k_max 8"]),
    ({"adaptive_scale": 1.5}, ["--adaptive_scale 1.5: valid are 0 to 1"]),
    ({"copy_share": -1.0}, ["--copy_share -1.0"]),
    ({"contrastive_alpha": 1.1}, ["--contrastive_alpha 1.1: valid are 0 to 1"]),
    ({"emit": "all"}, ["emit is 'all': valid are exit, contrastive"]),
    ({"use_early_exit": True, "emit": "contrastive"}, ["needs a contrastive exit_conf_type", "JSD_contrastive_text"]),
    (
        {"use_early_exit": True, "exit_conf_type": "state", "type_vocab_reduct": "fixed"},
        ["state reads no probabilities", "nothing to prune", "softmax, max_prob, entropy"],
    ),
]


@pytest.mark.parametrize(("settings", "sentences"), REFUSED)
def test_contradictions_are_refused_together_with_the_reason(settings, sentences):
    with pytest.raises(ValueError) as raised:
        AdditionalArguments(**settings)
    assert [part for part in sentences if part not in str(raised.value)] == []


@pytest.mark.parametrize(("settings", "sentences"), REFUSED)
def test_they_are_refused_when_set_afterwards_too(settings, sentences):
    args = AdditionalArguments()
    for name, value in settings.items():
        setattr(args, name, value)
    with pytest.raises(ValueError):
        update_autoconfig(tiny_config(), args)


@pytest.mark.parametrize("name", LATER)
def test_a_flag_whose_feature_is_missing_is_never_ignored(name):
    with pytest.raises(ValueError, match=f"--{name} 77 is not available yet"):
        AdditionalArguments(**{name: 77})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, row in LATER.items() for value in row.off])
def test_its_values_that_ask_for_nothing_are_quiet(name, value):
    assert getattr(AdditionalArguments(**{name: value}), name) == value


def test_defaults_ask_for_nothing():
    assert Policy.from_config(update_autoconfig(tiny_config(), AdditionalArguments())) == Policy()


@pytest.mark.parametrize(("value", "meant"), [(True, "fixed"), ("True", "fixed"), ("adaptive", "adaptive")])
def test_pruning_reaches_the_policy(value, meant):
    args = AdditionalArguments(use_early_exit=True, type_vocab_reduct=value, k=7, contrastive_alpha=0.2)
    policy = Policy.from_config(update_autoconfig(tiny_config(), args))
    assert (policy.vocabulary, policy.k, policy.alpha) == (meant, 7, 0.2)


@pytest.mark.parametrize("value", [False, None, "False", "none", "None"])
def test_no_pruning_has_many_spellings(value):
    assert AdditionalArguments(type_vocab_reduct=value).type_vocab_reduct is None


def test_a_loss_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(
        ValueError, match=r"nonsense is no loss of this version: valid are ce, weighted_ce, shallowdeep"
    ):
        AdditionalArguments(intermediate_loss_fn="nonsense")


def test_a_shallow_exit_of_a_loss_must_be_one_of_the_decoder(caplog):
    with pytest.raises(ValueError, match=r"shallowdeep_kd_unif trains a shallow exit: give --shallow_exit_layer"):
        AdditionalArguments(intermediate_loss_fn="shallowdeep_kd_unif")
    flags = AdditionalArguments(intermediate_loss_fn="shallowdeep_kd_unif", shallow_exit_layer=2)
    update_autoconfig(tiny_config(), flags)
    assert not caplog.text  # which the loss reads, though no token leaves there
    flags.shallow_exit_layer = tiny_config().num_decoder_layers
    with pytest.raises(ValueError, match=r"--shallow_exit_layer \d: .*trains an exit there; valid are 1 to"):
        update_autoconfig(tiny_config(), flags)


def test_flags_of_distillation_are_told_where_nothing_is_distilled(caplog):
    update_autoconfig(tiny_config(), AdditionalArguments(distill_layer_alpha=0.5))
    assert "Without --intermediate_loss_fn these flags have no effect: --distill_layer_alpha." in caplog.text


@pytest.mark.parametrize("make", [tiny_config, MT5Config, GPT2Config])
def test_every_flag_reaches_the_config_and_survives_saving(make, tmp_path):
    args = AdditionalArguments(use_early_exit=True, exit_conf_type="entropy", exit_conf_threshold=0.5, exit_min_layer=2)
    config = update_autoconfig(make(), args, max_answer_length=7)
    config.save_pretrained(tmp_path)
    for held in (config, type(config).from_pretrained(tmp_path)):
        assert {name: getattr(held, name) for name in args.flags()} == args.flags()
        assert held.max_answer_length == 7


def test_old_flags_of_a_checkpoint_are_overruled():
    saved = tiny_config(use_early_exit=True, exit_conf_threshold=0.1, exit_conf_type="meta", exit_min_layer=3)
    assert not Policy.from_config(update_autoconfig(saved, AdditionalArguments())).exits


def test_the_python_entry_of_the_reference():
    args = AdditionalArguments(
        use_early_exit=True, exit_conf_type="softmax", exit_conf_threshold=0.9, exit_position_temp=4.0, exit_min_layer=1
    )
    policy = Policy.from_config(update_autoconfig(tiny_config(), args, max_answer_length=12))
    assert (policy.confidence, policy.threshold, policy.temperature, policy.length, policy.first_exit) == (
        "softmax",
        0.9,
        4.0,
        12,
        1,
    )
    assert update_autoconfig(tiny_config(), args, max_target_length=9).max_answer_length == 9


@pytest.mark.parametrize("settings", [{"use_early_exit": True, "exit_min_layer": 6}, {"static_exit_layer": 7}])
def test_layers_the_model_lacks_are_refused_before_it_is_loaded(settings):
    with pytest.raises(ValueError, match=r"6 layers|valid are 1 to 6"):
        update_autoconfig(tiny_config(), AdditionalArguments(**settings))


def test_pruning_with_a_single_exit_is_refused():
    settings = {"use_early_exit": True, "type_vocab_reduct": "fixed", "exit_min_layer": 5}
    with pytest.raises(ValueError, match=r"exit_min_layer 5 of 6 layers there is a single exit and nothing to prune"):
        update_autoconfig(tiny_config(), AdditionalArguments(**settings))


@pytest.mark.parametrize("settings", [{"intermediate_loss_fn": "weighted_ce"}, {"train_meta_cm_head": True}])
def test_training_exits_implies_their_hidden_states(settings):
    assert update_autoconfig(tiny_config(), AdditionalArguments(**settings)).output_hidden_states_decoder


def test_flags_without_effect_are_told_once(caplog):
    update_autoconfig(tiny_config(), AdditionalArguments(exit_conf_type="softmax", exit_min_layer=2))
    assert len(caplog.records) == 1
    assert "--exit_conf_type, --exit_min_layer" in caplog.text
    caplog.clear()
    update_autoconfig(
        tiny_config(),
        AdditionalArguments(use_early_exit=True, exit_conf_type="softmax", exit_conf_threshold=0.9),
    )
    assert caplog.records == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"k": 9}, "Without --type_vocab_reduct these flags have no effect: --k."),
        ({"k": 9, "type_vocab_reduct": "decaying"}, "With --type_vocab_reduct decaying these flags have no effect"),
        ({"contrastive_alpha": 0.5}, "With --exit_conf_type softmax these flags have no effect: --contrastive_alpha."),
    ],
)
def test_flags_of_a_choice_that_was_not_made_are_told(settings, sentence, caplog):
    exits = {"use_early_exit": True, "exit_conf_threshold": 0.9}
    update_autoconfig(tiny_config(), AdditionalArguments(**exits, **settings))
    assert sentence in caplog.text
    caplog.clear()
    update_autoconfig(tiny_config(), AdditionalArguments(**exits, type_vocab_reduct="adaptive", adaptive_cap=True, k=9))
    assert caplog.records == []


@pytest.mark.parametrize("text", ["0", "99", "two", "1,,2"])
def test_exits_of_layerskip_that_the_decoder_does_not_have_are_refused_before_training(text):
    with pytest.raises(ValueError, match=f"--layerskip_exits {text}: valid are all, or layers"):
        flags = AdditionalArguments(intermediate_loss_fn="layerskip", extra={"layerskip_exits": text})
        update_autoconfig(tiny_config(), flags)


SHALLOW = {"use_shallow_deep": True, "shallow_exit_layer": 2}


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"use_early_exit": True}, "--exit_conf_threshold"),
        ({"use_early_exit": True, "exit_conf_threshold": 1.0}, "--exit_conf_threshold"),
        ({"use_early_exit": True, "lossless": True, "exit_conf_threshold": 1.0}, "--exit_conf_threshold"),
        (SHALLOW, "--shallow2deep_conf_threshold"),
        ({**SHALLOW, "use_adapt_threshold": True}, "--shallow2deep_conf_threshold"),
    ],
)
def test_a_threshold_that_nothing_exceeds_is_told(settings, flag, caplog):
    update_autoconfig(tiny_config(), AdditionalArguments(**settings))
    assert caplog.text.count(f"No token can leave early, since no confidence is above 1: give a {flag} below 1.") == 1


@pytest.mark.parametrize("exits", [{"use_early_exit": True}, SHALLOW])
def test_lossless_drafts_every_token_unless_told_otherwise(exits, caplog):
    config = update_autoconfig(tiny_config(), AdditionalArguments(**exits, lossless=True))
    assert Policy.from_config(config).threshold == 0.0
    assert caplog.records == []
    config = update_autoconfig(tiny_config(), AdditionalArguments(**exits))
    assert Policy.from_config(config).threshold == 1.0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"use_early_exit": "False"}, "use_early_exit is 'False': valid is True or False."),
        ({"use_early_exit": 1}, "use_early_exit is 1: valid is True or False."),
        ({"exit_conf_threshold": "high"}, "exit_conf_threshold is 'high': valid is a number or None."),
        ({"exit_conf_threshold": True}, "exit_conf_threshold is True: valid is a number or None."),
        ({"exit_min_layer": 4.5}, "exit_min_layer is 4.5: valid is a whole number or None."),
        ({"static_exit_layer": "2"}, "static_exit_layer is '2': valid is a whole number or None."),
        ({"exit_conf_type": 3}, "exit_conf_type is 3: valid is a text or None."),
        ({"lora_target_modules": "q"}, "lora_target_modules is 'q': valid is a list or None."),
        ({"emit": None}, "emit is None: valid is a text."),
    ],
)
def test_a_value_of_another_type_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        AdditionalArguments(**settings)
    flags = AdditionalArguments()
    for name, value in settings.items():  # flags are an object that callers change
        setattr(flags, name, value)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        update_autoconfig(tiny_config(), flags)


@pytest.mark.parametrize(("text", "layers"), [(None, ()), ("all", (1, 2, 3, 4)), ("4, 1", (1, 4)), ("2", (2,))])
def test_exit_layers_that_are_evaluated(text, layers):
    assert exit_layers_of(text, 4) == layers


@pytest.mark.parametrize("text", ["0,1", "5", "one", "1,,2", ""])
def test_exit_layers_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=rf"--eval_exit_layers {text}: valid are all, or layers from 1 to 4"):
        exit_layers_of(text, 4)
