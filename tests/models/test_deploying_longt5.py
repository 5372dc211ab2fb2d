"""LongT5's encoders: sources of any length against the blocks they are cut into, their FLOPs, half precision."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from decoding.policy import Policy
from support import double_precision, plain_generate, row_alone, tiny_t5

KINDS = ["longt5", "longt5, global"]
BLOCK = {"local_radius": 3}
LENGTHS = [1, 3, 4, 5, 11, 16, 17, 26]


def sources(lengths: list[int]) -> dict:
    """Random sources of these lengths, padded on the right to the longest."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(2, 61, mask.shape) * mask, "attention_mask": mask, "max_new_tokens": 8}


def made(kind: str):
    return tiny_t5(3, kind=kind, **BLOCK, **({"global_block_size": 4} if "global" in kind else {}))


@pytest.mark.parametrize("kind", KINDS)
def test_sources_of_any_length_are_the_librarys_together_and_alone(kind):
    given = sources(LENGTHS)
    with double_precision(made(kind)) as model:
        found = model.generate(**given, policy=Policy(confidence="softmax", threshold=1.0)).tolist()
        assert found == plain_generate(model, **given).tolist()
        exits = {"policy": Policy(confidence="softmax", threshold=0.3), "return_trace": True}
        early, trace = model.generate(**given, **exits)
        for row in range(len(LENGTHS)):
            alone = row_alone(given, row)
            plain = plain_generate(model, **alone)[0].tolist()
            assert found[row][: len(plain)] == plain
            own, own_trace = model.generate(**alone, **exits)
            length = own_trace.lengths[0]
            assert early[row, : length + 1].tolist() == own[0].tolist()
            assert trace.exit_layers[row, :length].tolist() == own_trace.exit_layers[0].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoders_flops_are_torchs_at_any_length(kind):
    model = made(kind)
    _, trace = model.generate(**sources(LENGTHS), return_trace=True)
    for row, length in enumerate(LENGTHS):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.encoder(**{name: value for name, value in sources([length]).items() if "_n" not in name})
        assert trace.flops()["encoder"][row] == counter.get_total_flops()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_or_refused(kind, dtype):
    """Padding that the library makes NaN of is refused, and only there."""
    model, kept = made(kind).to(dtype), {"return_dict_in_generate": True, "output_logits": True}
    batch = sources([25, 26])
    for given in (row_alone(batch, 0), row_alone(batch, 1)):
        assert torch.stack(model.generate(**given, **kept).logits).isfinite().all()
    if dtype == torch.bfloat16:
        assert torch.stack(model.generate(**batch, **kept).logits).isfinite().all()
        return
    assert plain_generate(model, **batch, **kept).logits[0][0].isnan().all(), "nothing to refuse any more"
    with pytest.raises(ValueError, match="NaN for padded sources in float16: take bfloat16 or float32"):
        model.generate(**batch)
