"""What is told of continuations, in words."""

from jobs.telling import Continuation, compared, contrasted, measured


def continuation(tokens, exit_layers=None, seconds=None, **others):
    return Continuation("a", "b", tokens, exit_layers, [1], seconds=seconds, **others)


def test_tokens_seconds_speed_and_depth():
    found = [continuation([1, 2, 3], [2, 4, 4], 0.5), continuation([1], [2], 0.5)]
    assert measured(found, 4) == "4 tokens in 1.00 s, 4.0 tokens/s; 3.00 of 4 layers on average"
    assert measured([continuation([1], [2])], 4) == "2.00 of 4 layers on average", "nobody took its time"
    assert measured([continuation([1], None, 0.5)], 4) == "1 token in 0.50 s, 2.0 tokens/s; 4.00 of 4 layers on average"


def test_drafts():
    found = [continuation([1, 2, 3, 4], [2, 2, 4, 4], 2.0, passes=18, drafted=3, accepted=2, undrafted=1)]
    told = measured(found, 4)
    assert "emitted after 3.00 of 4 layers on average, 4.50 layers run per token with verification" in told
    assert told.endswith("67% of 3 drafted tokens accepted; 25% of the tokens not drafted, since drafts did not pay")


def test_layers_contrasted_with_are_counted():
    found = [continuation([1, 2, 3], premature_layers=[2, 0, 2])]
    assert contrasted(found) == "; contrasted with layer 0 (1 token), 2 (2 tokens)" and not contrasted([])


def test_beside_full_depth():
    plain = [continuation([1, 2, 3, 4], None, 2.0)]
    same = [continuation([1, 2, 3, 4], [4] * 4, 1.0)]
    said = "full depth: 4 tokens in 2.00 s, 2.0 tokens/s; the above is 2.00 times as fast; "
    assert compared(same, plain, "full depth") == said + "the same tokens"
    other = [continuation([1, 5, 3, 4], [4] * 4, 1.0)]
    assert compared(other, plain, "full depth") == said + "token 2 is the first that differs"
    assert compared([continuation([1, 2], [4] * 2, 0.5)], plain, "full depth") == said + "one of them goes on"
    assert compared(same + other, plain + plain, "greedy").endswith("1 of 2 continuations differ")
