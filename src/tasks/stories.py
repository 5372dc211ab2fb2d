"""Seeded generator of the short stories that the embedded GPT-2 is trained and shown on.

Somebody looks for something that was lost, is helped for a gift, and finds it where the helper said. Who, what and
where come back in later sentences, so a story can be followed only by looking back. Names are drawn as in
`tasks.invented`: the two names of a validation story do not occur together in training.
"""
# ruff: noqa: SIM905 - many phrases in quotes and commas would be harder to read and to change.

import random

from tasks.invented import FIRST_NAMES, FOODS, PASTIMES, PROFESSIONS, SIGHTS, Inventor

LOST = (
    "a silver key|a brass clock|a red kite|an old map|a paper lamp|a small boat|a golden ring|a wooden flute|"
    "a blue scarf|a glass marble|a grey kitten|a black umbrella|a letter|a copper bell|a green book"
).split("|")
HELPERS = (
    "an old fox|a tired sailor|a tall heron|a young baker|a quiet owl|a blind fiddler|a hungry bear|a clever crow"
).split("|")
PLACES = (
    "under the stone bridge|behind the old mill|in the hollow oak|at the end of the pier|"
    "on the roof of the chapel|in the third drawer|beside the frozen pond|inside the broken clock|"
    "below the kitchen stairs|among the tall reeds"
).split("|")
TIMES = ("One winter morning|One warm evening|On a rainy day|Early in spring|One windy night|Late in the autumn").split(
    "|"
)
FEELINGS = "glad|proud|tired but happy|very quiet|full of joy|surprised".split("|")
REASONS = (
    "it had been a present from {friend}|it was the only one of its kind|the whole town was asking for it|"
    "a promise is a promise|{friend} was coming to visit"
).split("|")

OPENINGS = (
    "Once upon a time there was {a_profession} called {name}, who lived near the {sight} of {town}.",
    "{name} was {a_profession} in the town of {town}.",
    "In {town}, not far from the {sight}, lived {a_profession}. Everybody called {him} {name}.",
    "There once was {a_profession} in {town} whose name was {name}.",
)
FRIENDS = (
    "{His} best friend was {friend}, who liked {pastime}.",
    "Every day {he} talked to {friend}, who was always {pastime}.",
    "{name} and {friend} had known each other for a long time.",
)
LOSSES = (
    "{time} {name} could not find {thing}.",
    "{time} {thing_the} was gone.",
    '{time} {friend} came running. "Where is {thing_the}?" {friend} asked. {name} did not know.',
)
SEARCHES = (
    "{He} had to find it, because {reason}.",
    "{name} looked everywhere, because {reason}.",
    '"I must find {thing_the}," said {name}, "because {reason}."',
)
MEETINGS = (
    "On the way {he} met {helper}, who asked for some {food}.",
    'Behind the {sight} sat {helper}. "Do you have some {food}?" asked {helper_the}.',
    "After an hour {helper} came along and wanted {food}.",
)
GIFTS = (
    "{name} gave {helper_the} the {food}.",
    "So {name} shared the {food} with {helper_the}.",
    '"Here is some {food}," said {name}.',
)
ADVICE = (
    "Then {helper_the} said that {thing_the} was {place}.",
    '"Look {place}," said {helper_the}.',
    '"What you are looking for is {place}," {helper_the} told {him}.',
)
FINDINGS = (
    "{name} looked {place}, and there was {thing_the}!",
    "And {place} {he} found {thing_the}.",
    "{He} ran and looked {place}. There it was: {thing}.",
)
ENDINGS = (
    "{name} took {thing_the} home to {town} and was {feeling}.",
    "That evening {name} showed {thing_the} to {friend}, and both were {feeling}.",
    "{friend} was {feeling} when {name} came back to {town} with {thing_the}.",
)
CLOSINGS = ("They never lost it again.", "The {profession} told this story for years.", "", "")
STORY = (OPENINGS, FRIENDS, LOSSES, SEARCHES, MEETINGS, GIFTS, ADVICE, FINDINGS, ENDINGS, CLOSINGS)
SHE, HE = {"he": "she", "him": "her", "his": "her"}, {"he": "he", "him": "him", "his": "his"}


def invented_stories(split: str, count: int, seed: int = 0) -> list[dict]:
    """Stories as {"id", "text"}.

    Args:
        split: which names may occur: "train", "validation" or "test".
        seed: another one gives other stories of the same split.
    """
    rng = random.Random(f"stories {split} {seed}")
    inventor = Inventor(split, rng)
    return [{"id": f"{split}-{seed}-story-{index}", "text": _story(inventor)} for index in range(count)]


def _story(inventor: Inventor) -> str:
    rng = inventor.rng
    name, friend = inventor.combination(FIRST_NAMES, FIRST_NAMES)
    while name == friend:
        name, friend = inventor.combination(FIRST_NAMES, FIRST_NAMES)
    thing, helper = rng.choice(LOST), rng.choice(HELPERS)
    profession = rng.choice(PROFESSIONS)
    pronouns = SHE if name[-1] in "aei" else HE  # always the same of a name
    words = {
        "name": name,
        "friend": friend,
        "town": inventor.town(),
        "profession": profession,
        "a_profession": f"{'an' if profession[0] in 'aeiou' else 'a'} {profession}",
        "sight": rng.choice(SIGHTS),
        "pastime": rng.choice(PASTIMES),
        "time": rng.choice(TIMES),
        "thing": thing,
        "thing_the": definite(thing),
        "helper": helper,
        "helper_the": definite(helper),
        "food": rng.choice(FOODS),
        "place": rng.choice(PLACES),
        "feeling": rng.choice(FEELINGS),
        **pronouns,
        "He": pronouns["he"].capitalize(),
        "His": pronouns["his"].capitalize(),
    }
    words["reason"] = rng.choice(REASONS).format(**words)
    sentences = (rng.choice(part).format(**words) for part in STORY)
    return " ".join(filter(None, sentences))


def definite(phrase: str) -> str:
    """ "an old fox" as "the old fox"."""
    return "the " + phrase.split(" ", 1)[1]
