"""How a prompt passes the layers: in pieces, one after the other."""

# Slots of a prompt that pass the layers together: their scores are what takes memory.
PROMPT_PIECE = 512


def prompt_pieces(length: int) -> list[tuple[int, int]]:
    """First slot and end of the pieces of a prompt of `length` slots."""
    return [(start, min(length, start + PROMPT_PIECE)) for start in range(0, length, PROMPT_PIECE)]
