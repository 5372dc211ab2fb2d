"""Seeded generator of the two small tasks the embedded model is trained and shown on.

`invented_facts` gives questions on short passages in SQuAD's columns, `invented_dialogues` short chats with summaries
in SAMSum's columns. Everything is made up and nothing is read from disk. Each proper name is a combination of parts,
and the sum of the parts' indices modulo ten decides which split may use it (eight residues train, one validation, one
test): the parts of a validation name are known from training, the name is not, so no passage or dialogue occurs in two
splits.

How hard an example is varies on purpose: some passages describe one thing, some two of a kind (the other is a
distractor), some a chain in which the question has to be carried over a link ("the company that built the Silver
Heron"); in some dialogues a time, a day or an order is corrected.
"""
# ruff: noqa: SIM905 - a hundred words in quotes and commas would be harder to read and to change.

import random
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

SPLIT_RESIDUES = {"train": (0, 1, 2, 3, 4, 5, 6, 7), "validation": (8,), "test": (9,)}

# ---------------------------------------------------------------------------------------------------------- word lists
ONSETS = (
    "Bel Bran Cal Cor Dal Dor El Fal Fen Gar Gil Hal Har Is Jor Kal Kel Lan Lor Mal Mar Mer Nal Nor Or Pel Per "
    "Quin Ral Ros Sal Sel Tal Tor Ul Val Var Wel Wil Yar Zel Bren Crom Dren Flor Gren Hol Kir Lin Mos Nev Os Pol "
    "Ren Sten Tam Tren Ven Wyn Zan"
).split()
MIDDLES = "a e i o u an el in or ar en ist am eth ov und il ek as um".split()
SURNAME_ENDS = "ow er ley ton sen ski man ett dale mond wick berg las ric by nor tag vin lot rin".split()
TOWN_ENDS = "ford haven burgh mouth stead bridge field ham port wold minster beck gate cliff marsh holm".split()
FIRST_NAMES = (
    "Ada Alma Anton Arlo Bea Bruno Carla Cleo Dara Dora Edgar Elena Emil Erik Esme Felix Flora Gina Greta Hanna "
    "Hugo Ida Ines Iris Ivan Jana Jonas Julia Karl Kira Lara Leo Lena Lina Luca Mara Marco Mia Mila Nadia Nico "
    "Nina Noel Nora Olga Oscar Otto Paula Petra Rita Rosa Ruben Sam Sara Selma Simon Sofia Stella Tara Tessa "
    "Theo Tilda Tom Vera Victor Viola Walter Wanda Yara Zoe"
).split()
ADJECTIVES = (
    "Silver Golden Crimson Amber Quiet Northern Southern Wandering Bright Iron Copper Hidden Merry Bold Frozen "
    "Distant Velvet Gentle Swift Painted Winter Summer Scarlet Lonely"
).split()
NOUNS = (
    "Heron Falcon Otter Lantern Compass Harvest Meadow Anchor Thistle Comet Raven Willow Mirror Garden Candle "
    "Bell Sparrow Orchard Beacon Clover Dolphin Fox Kettle Ladder Marble Needle Owl Pebble Ribbon Saddle Tiger "
    "Violet Walnut Badger Feather Harbour Island Journey Key Letter"
).split()
TRADES = "Glassworks Mills Shipyard Motors Foods Textiles Brewery Press Tools Instruments Clocks Bakery".split()
BUILDINGS = "Bridge Tower Hall Library Theatre Museum Lighthouse Station Chapel Mill".split()
FESTIVALS = "Music Lantern Kite Harvest Film Bread Flower Boat Poetry Cheese".split()
TEAMS = "Wolves Hawks Foxes Rovers Bears Rangers Comets Otters Lions Ravens".split()

COLOURS = "red blue green yellow white black grey orange purple brown".split()
MATERIALS = "granite oak marble limestone brick steel copper slate cedar sandstone glass iron".split()
PRODUCTS = (
    "wooden toys|leather boots|silver spoons|paper lamps|wool blankets|brass clocks|garden chairs|fishing boats|"
    "tea pots|piano strings|winter coats|bicycle wheels|glass bottles|copper kettles|straw hats|field maps"
).split("|")
CARGOES = "tea|coal|timber|salt|spices|cotton|wheat|coffee|wine|iron ore|dried fish|olive oil".split("|")
PROFESSIONS = (
    "painter|doctor|sailor|botanist|composer|engineer|teacher|lawyer|baker|geologist|carpenter|astronomer|"
    "journalist|clock maker|bee keeper|map maker"
).split("|")
PASTIMES = (
    "playing the cello|collecting stamps|growing roses|climbing hills|playing chess|repairing clocks|"
    "sailing small boats|keeping bees|baking bread|drawing birds|playing the flute|studying moths"
).split("|")
SIGHTS = (
    "old windmill|stone harbour|glass market|rose garden|clock tower|wooden theatre|salt mine|copper dome|"
    "botanical garden|floating market|round church|town orchard"
).split("|")
TOPICS = (
    "a lost brother|a stolen map|a long winter|two rival bakers|a silent village|a broken promise|"
    "an old lighthouse|a secret garden|a journey by train|a family of weavers|a talking clock|a forgotten war"
).split("|")
CAUSES = (
    "a heavy storm|a great fire|a spring flood|a lack of money|a long strike|an earthquake|a cold winter|"
    "a broken pump|a crack in the wall|a dispute over land"
).split("|")
PRIZES = "Heron|Compass|Laurel|Aurora|Granite|Meridian|Lantern|Orchid|Zenith|Harbour".split("|")
FOODS = (
    "plum cake|smoked trout|onion soup|honey bread|apple wine|goat cheese|nut pie|roast chestnuts|fish stew|"
    "ginger biscuits|lemon tarts|black tea"
).split("|")
COUNTABLE = "rooms windows steps arches statues columns bells lamps".split()


class Inventor:
    """Draws names, numbers and phrases for one split.

    Args:
        split: which names may be drawn: "train", "validation" or "test".
        rng: the source of chance; the same state gives the same draws.
    """

    def __init__(self, split: str, rng: random.Random):
        if split not in SPLIT_RESIDUES:
            raise ValueError(f"unknown split {split!r}; valid splits are {', '.join(SPLIT_RESIDUES)}")
        self.residues = SPLIT_RESIDUES[split]
        self.rng = rng

    def combination(self, *parts: list[str]) -> list[str]:
        """One word from each list, such that the sum of their indices belongs to this split."""
        while True:
            indices = [self.rng.randrange(len(words)) for words in parts]
            if sum(indices) % 10 in self.residues:
                return [words[index] for words, index in zip(parts, indices, strict=True)]

    def surname(self) -> str:
        return "".join(self.combination(ONSETS, MIDDLES, SURNAME_ENDS))

    def person(self) -> str:
        return f"{self.rng.choice(FIRST_NAMES)} {self.surname()}"

    def speakers(self) -> tuple[str, str, str]:
        """Three different first names; the first two together belong to this split."""
        while True:
            first, second = self.combination(FIRST_NAMES, FIRST_NAMES)
            third = self.rng.choice(FIRST_NAMES)
            if len({first, second, third}) == 3:
                return first, second, third

    def town(self) -> str:
        return "".join(self.combination(ONSETS, MIDDLES, TOWN_ENDS))

    def ship(self) -> str:
        return "the " + " ".join(self.combination(ADJECTIVES, NOUNS))

    def book(self) -> str:
        return f"The {self.rng.choice(NOUNS)} of {self.town()}"

    def company(self) -> str:
        return f"{self.surname()} {self.rng.choice(TRADES)}"

    def building(self) -> str:
        return f"{self.surname()} {self.rng.choice(BUILDINGS)}"

    def festival(self) -> str:
        return f"the {self.town()} {self.rng.choice(FESTIVALS)} Festival"

    def team(self) -> str:
        return f"the {self.town()} {self.rng.choice(TEAMS)}"

    def river(self) -> str:
        return "".join(self.combination(ONSETS, MIDDLES))

    def year(self) -> str:
        return str(self.rng.randint(1650, 1999))

    def small(self) -> str:
        return str(self.rng.randint(3, 99))

    def age(self) -> str:
        return str(self.rng.randint(19, 89))

    def hundreds(self) -> str:
        return str(self.rng.randint(101, 999))

    def thousands(self) -> str:
        return f"{self.rng.randint(1, 98)},{self.rng.randint(0, 999):03d}"

    def materials(self) -> str:
        return " and ".join(self.rng.sample(MATERIALS, 2))

    def month(self) -> str:
        return self.rng.choice(MONTHS)

    def date(self) -> str:
        return f"{self.rng.randint(1, 28)} {self.month()}"

    def prize(self) -> str:
        return f"the {self.rng.choice(PRIZES)} Prize"


MONTHS = "January February March April May June July August September October November December".split()
PHRASES = {
    "colour": COLOURS,
    "product": PRODUCTS,
    "cargo": CARGOES,
    "profession": PROFESSIONS,
    "pastime": PASTIMES,
    "sight": SIGHTS,
    "topic": TOPICS,
    "cause": CAUSES,
    "food": FOODS,
    "countable": COUNTABLE,
}


# ------------------------------------------------------------------------------------------------------------ passages
@dataclass(frozen=True)
class Fact:
    """One statement about a subject.

    Attributes:
        sentences: paraphrases; {subject} is the thing described, `Inventor` or PHRASES give the other fields.
        questions: (question, field that answers it); {name} is the thing described.
    """

    sentences: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Kind:
    """A kind of thing passages are about.

    Attributes:
        nouns: what may stand for the name once it has been mentioned.
        facts: what can be said about it.
        links: field of a fact -> (kind of the thing in that field, how a question describes that thing).
    """

    nouns: tuple[str, ...]
    facts: tuple[Fact, ...]
    links: dict[str, tuple[str, str]] = field(default_factory=dict)


KINDS = {
    "person": Kind(
        nouns=("She", "He"),
        facts=(
            Fact(
                (
                    "{subject} was born in {town} in {year}.",
                    "In {year}, {subject} was born in {town}.",
                    "{subject} came from {town} and was born in {year}.",
                ),
                (
                    ("Where was {name} born?", "town"),
                    ("When was {name} born?", "year"),
                    ("In which town was {name} born?", "town"),
                    ("What is the birth year of {name}?", "year"),
                ),
            ),
            Fact(
                (
                    "{subject} worked as a {profession} for {small} years.",
                    "For {small} years {subject} was a {profession}.",
                ),
                (
                    ("What was the profession of {name}?", "profession"),
                    ("What did {name} work as?", "profession"),
                    ("For how many years did {name} work?", "small"),
                ),
            ),
            Fact(
                ("{subject} was fond of {pastime}.", "In the evenings {subject} enjoyed {pastime}."),
                (("What did {name} like to do?", "pastime"), ("What was {name} fond of?", "pastime")),
            ),
            Fact(
                (
                    "{subject} received {prize} at the age of {age}.",
                    "At the age of {age} {subject} was given {prize}.",
                ),
                (
                    ("Which prize did {name} receive?", "prize"),
                    ("At what age did {name} receive a prize?", "age"),
                    ("What was {name} given?", "prize"),
                ),
            ),
            Fact(
                (
                    "{subject} later married {person}, a {profession}.",
                    "{subject} was married to the {profession} {person}.",
                ),
                (
                    ("Who was {name} married to?", "person"),
                    ("Whom did {name} marry?", "person"),
                    ("What was the profession of the person {name} married?", "profession"),
                ),
            ),
        ),
    ),
    "town": Kind(
        nouns=("The town",),
        facts=(
            Fact(
                ("{subject} has {thousands} inhabitants.", "About {thousands} people live in {subject}."),
                (
                    ("How many people live in {name}?", "thousands"),
                    ("How many inhabitants does {name} have?", "thousands"),
                    ("What is the population of {name}?", "thousands"),
                ),
            ),
            Fact(
                ("{subject} lies on the river {river}.", "The river {river} flows through {subject}."),
                (
                    ("On which river does {name} lie?", "river"),
                    ("Which river flows through {name}?", "river"),
                ),
            ),
            Fact(
                ("{subject} was founded in {year} by {person}.", "In {year}, {person} founded {subject}."),
                (
                    ("Who founded {name}?", "person"),
                    ("When was {name} founded?", "year"),
                    ("In which year was {name} founded?", "year"),
                ),
            ),
            Fact(
                ("{subject} is known for its {sight}.", "Visitors come to {subject} to see the {sight}."),
                (("What is {name} known for?", "sight"), ("What do visitors see in {name}?", "sight")),
            ),
            Fact(
                ("Part of {subject} was destroyed by {cause} in {year}.", "In {year} {cause} damaged {subject}."),
                (("What damaged {name}?", "cause"), ("When was {name} damaged?", "year")),
            ),
        ),
        links={"person": ("person", "the person who founded {name}")},
    ),
    "ship": Kind(
        nouns=("The ship",),
        facts=(
            Fact(
                ("{subject} was built by {company} in {year}.", "In {year} {company} built {subject}."),
                (
                    ("Who built {name}?", "company"),
                    ("Which company built {name}?", "company"),
                    ("When was {name} built?", "year"),
                ),
            ),
            Fact(
                (
                    "{subject} carried {cargo} from {town} to {town2}.",
                    "On most trips {subject} took {cargo} from {town} to {town2}.",
                ),
                (
                    ("What did {name} carry?", "cargo"),
                    ("From which town did {name} sail?", "town"),
                    ("To which town did {name} sail?", "town2"),
                    ("Where did {name} bring its cargo?", "town2"),
                ),
            ),
            Fact(
                (
                    "{subject} had a crew of {small} under captain {person}.",
                    "Captain {person} led the {small} sailors of {subject}.",
                ),
                (
                    ("Who was the captain of {name}?", "person"),
                    ("How many sailors did {name} have?", "small"),
                    ("How large was the crew of {name}?", "small"),
                ),
            ),
            Fact(
                (
                    "{subject} was {hundreds} feet long and painted {colour}.",
                    "Painted {colour}, {subject} measured {hundreds} feet.",
                ),
                (
                    ("How long was {name}?", "hundreds"),
                    ("What colour was {name}?", "colour"),
                    ("Which colour was {name} painted?", "colour"),
                ),
            ),
            Fact(
                ("{subject} sank near {town} on {date}.", "On {date} {subject} went down off {town}."),
                (
                    ("Where did {name} sink?", "town"),
                    ("On what day did {name} sink?", "date"),
                    ("When did {name} go down?", "date"),
                ),
            ),
        ),
        links={
            "company": ("company", "the company that built {name}"),
            "person": ("person", "the captain of {name}"),
        },
    ),
    "company": Kind(
        nouns=("The company",),
        facts=(
            Fact(
                ("{subject} was founded by {person} in {year}.", "In {year} {person} founded {subject}."),
                (
                    ("Who founded {name}?", "person"),
                    ("When was {name} founded?", "year"),
                    ("In which year was {name} founded?", "year"),
                ),
            ),
            Fact(
                ("{subject} makes {product} in {town}.", "In its factory in {town}, {subject} makes {product}."),
                (
                    ("What does {name} make?", "product"),
                    ("Where is the factory of {name}?", "town"),
                    ("In which town does {name} have its factory?", "town"),
                ),
            ),
            Fact(
                ("{subject} employs {hundreds} people.", "Today {hundreds} people work for {subject}."),
                (
                    ("How many people does {name} employ?", "hundreds"),
                    ("How many people work for {name}?", "hundreds"),
                ),
            ),
            Fact(
                (
                    "{subject} closed for a year because of {cause}.",
                    "Because of {cause}, {subject} had to close for a while.",
                ),
                (("Why did {name} close?", "cause"), ("What made {name} close?", "cause")),
            ),
            Fact(
                ("{subject} is now led by {person2}.", "The present head of {subject} is {person2}."),
                (("Who leads {name} now?", "person2"), ("Who is the head of {name}?", "person2")),
            ),
        ),
        links={
            "person": ("person", "the person who founded {name}"),
            "town": ("town", "the town where {name} has its factory"),
        },
    ),
    "book": Kind(
        nouns=("The book",),
        facts=(
            Fact(
                ("{subject} was written by {person} in {year}.", "In {year} {person} wrote {subject}."),
                (
                    ("Who wrote {name}?", "person"),
                    ("Who is the author of {name}?", "person"),
                    ("When was {name} written?", "year"),
                ),
            ),
            Fact(
                ("{subject} tells the story of {topic}.", "The story of {subject} is about {topic}."),
                (("What is {name} about?", "topic"), ("What does {name} tell the story of?", "topic")),
            ),
            Fact(
                ("{subject} sold {thousands} copies.", "About {thousands} copies of {subject} were sold."),
                (
                    ("How many copies of {name} were sold?", "thousands"),
                    ("How many copies did {name} sell?", "thousands"),
                ),
            ),
            Fact(
                (
                    "{subject} has {hundreds} pages and {small} chapters.",
                    "There are {small} chapters and {hundreds} pages in {subject}.",
                ),
                (
                    ("How many pages does {name} have?", "hundreds"),
                    ("How many chapters does {name} have?", "small"),
                ),
            ),
            Fact(
                ("{subject} is set in {town} and won {prize}.", "Set in {town}, {subject} won {prize}."),
                (("Where is {name} set?", "town"), ("Which prize did {name} win?", "prize")),
            ),
        ),
        links={"person": ("person", "the author of {name}"), "town": ("town", "the town where {name} is set")},
    ),
    "building": Kind(
        nouns=("The building",),
        facts=(
            Fact(
                ("{subject} was designed by {person}.", "The architect of {subject} was {person}."),
                (("Who designed {name}?", "person"), ("Who was the architect of {name}?", "person")),
            ),
            Fact(
                ("{subject} stands in {town} and opened in {year}.", "Opened in {year}, {subject} stands in {town}."),
                (
                    ("Where does {name} stand?", "town"),
                    ("When did {name} open?", "year"),
                    ("In which town is {name}?", "town"),
                ),
            ),
            Fact(
                ("{subject} is made of {materials}.", "The walls of {subject} are made of {materials}."),
                (("What is {name} made of?", "materials"), ("Which materials is {name} made of?", "materials")),
            ),
            Fact(
                (
                    "{subject} is {hundreds} feet high and has {small} {countable}.",
                    "With {small} {countable}, {subject} is {hundreds} feet high.",
                ),
                (
                    ("How high is {name}?", "hundreds"),
                    ("How many feet high is {name}?", "hundreds"),
                    ("How many {countable} does {name} have?", "small"),
                ),
            ),
            Fact(
                (
                    "{subject} was repaired after {cause} in {year}.",
                    "After {cause} in {year}, {subject} had to be repaired.",
                ),
                (("After what was {name} repaired?", "cause"), ("When was {name} repaired?", "year")),
            ),
        ),
        links={"person": ("person", "the architect of {name}"), "town": ("town", "the town where {name} stands")},
    ),
    "festival": Kind(
        nouns=("The festival",),
        facts=(
            Fact(
                ("{subject} takes place every {month}.", "Every {month} people celebrate {subject}."),
                (("In which month does {name} take place?", "month"), ("When does {name} take place?", "month")),
            ),
            Fact(
                ("{subject} was started by {person} in {year}.", "In {year} {person} started {subject}."),
                (("Who started {name}?", "person"), ("When did {name} start?", "year")),
            ),
            Fact(
                (
                    "{subject} draws {thousands} visitors and lasts {small} days.",
                    "For {small} days {subject} draws {thousands} visitors.",
                ),
                (
                    ("How many visitors does {name} draw?", "thousands"),
                    ("How many days does {name} last?", "small"),
                    ("How long does {name} last?", "small"),
                ),
            ),
            Fact(
                ("Guests of {subject} eat {food}.", "The typical dish of {subject} is {food}."),
                (("What do guests eat at {name}?", "food"), ("What is the typical dish of {name}?", "food")),
            ),
            Fact(
                ("{subject} is paid for by {company}.", "The costs of {subject} are paid by {company}."),
                (("Who pays for {name}?", "company"), ("Which company pays for {name}?", "company")),
            ),
        ),
        links={
            "person": ("person", "the person who started {name}"),
            "company": ("company", "the company that pays for {name}"),
        },
    ),
    "team": Kind(
        nouns=("The team",),
        facts=(
            Fact(
                (
                    "{subject} won the cup in {year} under coach {person}.",
                    "Under coach {person}, {subject} won the cup in {year}.",
                ),
                (
                    ("Who was the coach of {name}?", "person"),
                    ("When did {name} win the cup?", "year"),
                    ("In which year did {name} win the cup?", "year"),
                ),
            ),
            Fact(
                (
                    "{subject} plays in {colour} shirts at {building}.",
                    "At {building}, {subject} plays in {colour} shirts.",
                ),
                (("What colour are the shirts of {name}?", "colour"), ("Where does {name} play?", "building")),
            ),
            Fact(
                ("{subject} has {thousands} members.", "There are {thousands} members in {subject}."),
                (("How many members does {name} have?", "thousands"),),
            ),
            Fact(
                (
                    "The best player of {subject} was {person2}, who scored {small} goals.",
                    "With {small} goals, {person2} was the best player of {subject}.",
                ),
                (
                    ("Who was the best player of {name}?", "person2"),
                    ("How many goals did the best player of {name} score?", "small"),
                ),
            ),
        ),
        links={"person": ("person", "the coach of {name}"), "building": ("building", "the place where {name} plays")},
    ),
}


NOUNS_FOR_NAMES = {noun.removeprefix("The ") for kind in KINDS.values() for noun in kind.nouns}


@dataclass(frozen=True)
class Told:
    """A fact that has been put into words: the sentence, the values in it, and the fact it came from."""

    fact: Fact
    sentence: str
    values: dict[str, str]


def _fields(template: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def _draw(slot: str, inventor: Inventor) -> str:
    """A value for a field; a trailing digit only keeps two fields of one kind apart."""
    kind = slot.rstrip("0123456789")
    if kind in PHRASES:
        return inventor.rng.choice(PHRASES[kind])
    return getattr(inventor, kind)()


def _draw_other_than(taken: str, slot: str, inventor: Inventor) -> str:
    while (value := _draw(slot, inventor)) == taken:
        pass
    return value


def _sentence_case(text: str) -> str:
    return text[0].upper() + text[1:]


def _tell(fact: Fact, subject: str, inventor: Inventor, given: dict[str, str] | None = None) -> Told:
    """Put a fact about `subject` into one of its sentences; `given` fixes some of the values."""
    template = inventor.rng.choice(fact.sentences)
    if not template.startswith("{subject}"):
        subject = _inside_sentence(subject)
    slots = [slot for slot in _fields(template) if slot != "subject"]
    values = {slot: _draw(slot, inventor) for slot in slots} | (given or {})
    return Told(fact, _sentence_case(template.format(subject=subject, **values)), values)


def _inside_sentence(subject: str) -> str:
    """A pronoun or "The ship" where it does not open the sentence."""
    first, _, rest = subject.partition(" ")
    return first.lower() + subject[len(first) :] if first in ("She", "He") or rest in NOUNS_FOR_NAMES else subject


def _tell_all(kind: Kind, name: str, facts: Iterable[Fact], inventor: Inventor, only_name: bool) -> list[Told]:
    """Several facts about one thing; after the first sentence a noun may stand for the name unless `only_name`."""
    noun = inventor.rng.choice(kind.nouns)
    told = []
    for position, fact in enumerate(facts):
        repeated = position == 0 or only_name or inventor.rng.random() < 0.25
        told.append(_tell(fact, name if repeated else noun, inventor))
    return told


def _question(told: Told, name: str, rng: random.Random) -> tuple[str, str]:
    """(question about `name`, answer) for a fact that was told."""
    template, slot = rng.choice(told.fact.questions)
    return template.format(name=name, **told.values), told.values[slot]


@dataclass(frozen=True)
class Passage:
    """Sentences in order, and the question on one of them."""

    title: str
    sentences: list[str]
    question: str
    answer: str
    answer_sentence: str


def _passage(title: str, told: list[Told], asked: Told, name: str, inventor: Inventor) -> Passage:
    question, answer = _question(asked, name, inventor.rng)
    return Passage(title, [each.sentence for each in told], question, answer, asked.sentence)


def _single(inventor: Inventor) -> Passage:
    """Three or four facts about one thing."""
    kind_name = inventor.rng.choice(list(KINDS))
    kind, name = KINDS[kind_name], _draw(kind_name, inventor)
    facts = inventor.rng.sample(kind.facts, inventor.rng.randint(3, 4))
    told = _tell_all(kind, name, facts, inventor, only_name=False)
    return _passage(name, told, inventor.rng.choice(told), name, inventor)


def _pair(inventor: Inventor, facts: int = 2) -> Passage:
    """Two things of one kind and the same facts about both: only the name in the question tells them apart."""
    kind_name = inventor.rng.choice(list(KINDS))
    kind = KINDS[kind_name]
    names = [_draw(kind_name, inventor)]
    names.append(_draw_other_than(names[0], kind_name, inventor))
    chosen = inventor.rng.sample(kind.facts, facts)
    told = [_tell_all(kind, name, chosen, inventor, only_name=True) for name in names]
    asked = inventor.rng.randrange(2)
    ordered = told[0] + told[1]
    if inventor.rng.random() < 0.5:  # fact by fact instead of thing by thing
        ordered = [each for both in zip(*told, strict=True) for each in both]
    return _passage(names[asked], ordered, inventor.rng.choice(told[asked]), names[asked], inventor)


def _chain(inventor: Inventor) -> Passage:
    """Two things, the second named by a fact about the first; the question may reach it only through that fact."""
    rng = inventor.rng
    kind_name = rng.choice([name for name, kind in KINDS.items() if kind.links])
    kind, name = KINDS[kind_name], _draw(kind_name, inventor)
    slot = rng.choice(list(kind.links))
    other_kind, description = kind.links[slot]
    other = _draw(other_kind, inventor)
    linking = rng.choice([fact for fact in kind.facts if slot in _fields(fact.sentences[0])])
    link = _tell(linking, name, inventor, given={slot: other})
    more = _tell_all(KINDS[other_kind], other, rng.sample(KINDS[other_kind].facts, 2), inventor, only_name=False)
    asked_name = description.format(name=name) if rng.random() < 0.7 else other
    told = [link, *more]
    if rng.random() < 0.4:  # the second thing first
        told = [*more, link]
    return _passage(name, told, rng.choice(more), asked_name, inventor)


def _short_pair(inventor: Inventor) -> Passage:
    """Two things of one kind, and the same single fact about each."""
    return _pair(inventor, facts=1)


PASSAGES: dict[str, Callable[[Inventor], Passage]] = {
    "single": _single,
    "pair": _pair,
    "chain": _chain,
    "short_pair": _short_pair,
}
SHARES = {"single": 0.55, "pair": 0.10, "chain": 0.35}


def invented_facts(split: str, count: int, seed: int = 0, shares: dict[str, float] = SHARES) -> list[dict]:
    """Questions on short invented passages.

    Args:
        split: "train", "validation" or "test"; no name of one split occurs in another.
        count: how many examples; a longer list begins with the shorter one.
        seed: another seed gives other examples of the same split.
        shares: how often each kind of passage (a key of PASSAGES) is made.

    Returns:
        Dicts with the columns of SQuAD: id, title, context, question, answers{text, answer_start}.
    """
    inventor = Inventor(split, random.Random(f"facts {split} {seed}"))
    builders = [PASSAGES[name] for name in shares]
    examples = []
    for number in range(count):
        passage = inventor.rng.choices(builders, list(shares.values()))[0](inventor)
        examples.append(_squad_row(passage, f"{split}-{seed}-fact-{number}"))
    return examples


def _squad_row(passage: Passage, example_id: str) -> dict:
    context = " ".join(passage.sentences)
    # The answer may open its sentence, where its first letter is a capital.
    sentence_start = context.index(passage.answer_sentence)
    answer = passage.answer
    if answer not in passage.answer_sentence:
        answer = _sentence_case(answer)
    start = sentence_start + passage.answer_sentence.index(answer)
    return {
        "id": example_id,
        "title": _sentence_case(passage.title),
        "context": context,
        "question": passage.question,
        "answers": {"text": [answer], "answer_start": [start]},
    }


# ----------------------------------------------------------------------------------------------------------- dialogues
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
TIMES = [f"{hour}{half}" for hour in range(1, 12) for half in ("", ":15", ":30", ":45")]
ACTIVITIES = (
    "go swimming|play tennis|watch a film|have lunch|go for a walk|play chess|visit the museum|have coffee|"
    "go climbing|study together|cook dinner|go to a concert|play football|paint the fence|ride bikes|"
    "see the exhibition"
).split("|")
PLACES = (
    "library|park|station|old bridge|main square|cinema|bakery|town hall|harbour|sports hall|bus stop|market|"
    "cafe|bookshop|fountain|post office"
).split("|")
ITEMS = (
    "ladder|drill|tent|bike|camera|guitar|suitcase|umbrella|laptop|sewing machine|sleeping bag|rucksack|toolbox|"
    "tennis racket|coffee maker|lawn mower"
).split("|")
PURPOSES = (
    "a school project|a trip to the lake|the party|a photo course|the kitchen wall|a weekend away|the garden|"
    "the new flat|a concert|the summer camp"
).split("|")
SHOPS = "supermarket|bakery|market|corner shop|garden centre|butcher|chemist".split("|")
GROCERIES = (
    "milk|eggs|bread|butter|apples|rice|cheese|onions|tomatoes|coffee|flour|pears|honey|pasta|lemons|yoghurt|"
    "carrots|sugar"
).split("|")
EVENTS = "birthday party|concert|picnic|barbecue|rehearsal|dinner|meeting|game night|opening|workshop".split("|")
EXCUSES = {
    "I have to work": "has to work",
    "I have a cold": "has a cold",
    "I missed my train": "missed the train",
    "my car broke down": "has a broken car",
    "I have an exam": "has an exam",
    "my parents are visiting": "has visitors",
    "I hurt my knee": "has a sore knee",
    "I have to look after the dog": "has to look after the dog",
}
NEWS = {
    "I got the job": "got the job",
    "I passed my driving test": "passed the driving test",
    "I found a new flat": "found a new flat",
    "I won the chess cup": "won the chess cup",
    "I finished my thesis": "finished the thesis",
    "I bought a boat": "bought a boat",
    "I am moving abroad": "is moving abroad",
    "I adopted a cat": "adopted a cat",
}
LOST = "keys|wallet|glasses|phone|scarf|notebook|gloves|passport|headphones|tickets".split("|")
SPOTS = (
    "under the sofa|on the kitchen table|in the blue bag|behind the door|in the car|next to the sink|"
    "on the top shelf|in the drawer|under the newspaper|in the hall"
).split("|")
VERDICTS = "boring|wonderful|too long|very funny|sad|confusing|exciting|charming".split("|")
DOCUMENTS = "report|invoice|contract|slides|budget|floor plan|guest list|menu|timetable|draft".split("|")
TRANSPORT = "train|bus|car|boat|bike|plane".split("|")
GREETINGS = ("Hi {other}", "Hey {other}", "Hello {other}", "{other}")
CLOSINGS = ("Great!", "Thanks!", "Perfect.", "See you!", "No problem.", "Good.", "Thank you so much!", "Bye!")


@dataclass
class Chat:
    """A dialogue while it is written: speakers, turns and the source of chance.

    Attributes:
        first, second: the two who talk; third: somebody they may mention.
    """

    inventor: Inventor
    first: str
    second: str
    third: str
    turns: list[str] = field(default_factory=list)

    @property
    def rng(self) -> random.Random:
        return self.inventor.rng

    def say(self, speaker: str, *variants: str) -> None:
        """Append one of the variants as the next turn of `speaker`."""
        self.turns.append(f"{speaker}: {self.rng.choice(variants)}")

    def greet(self) -> str:
        return self.rng.choice(GREETINGS).format(other=self.second)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def two(self, words: list[str]) -> list[str]:
        return self.rng.sample(words, 2)


def _meeting(chat: Chat) -> str:
    a, b = chat.first, chat.second
    activity, place = chat.rng.choice(ACTIVITIES), chat.rng.choice(PLACES)
    (day, other_day), (time, other_time) = chat.two(DAYS), chat.two(TIMES)
    chat.say(
        a, f"{chat.greet()}, shall we {activity} on {day}?", f"{chat.greet()}, do you want to {activity} on {day}?"
    )
    if chat.chance(0.35):
        chat.say(b, f"No, make it {other_day}. When?", f"{day} is bad for me, but {other_day} is fine. What time?")
        day = other_day
    else:
        chat.say(b, "Sure, when and where?", "Good idea! What time?", f"Yes, {day} is fine. When?")
    chat.say(
        a, f"At {time} at the {place}?", f"How about {time}, at the {place}?", f"Let us meet at the {place} at {time}."
    )
    if chat.chance(0.35):
        chat.say(b, f"Can we make it {other_time}?", f"{time} is too early, rather {other_time}.")
        chat.say(a, f"Fine, {other_time} then.", "All right.", "Yes, no problem.")
        time = other_time
    else:
        chat.say(b, "I will be there.", "Perfect, see you then.", "Fine.")
    return f"{a} and {b} will {activity} on {day}. They will meet at the {place} at {time}."


def _borrowing(chat: Chat) -> str:
    a, b, c = chat.first, chat.second, chat.third
    item, purpose, day = chat.rng.choice(ITEMS), chat.rng.choice(PURPOSES), chat.rng.choice(DAYS)
    chat.say(a, f"{chat.greet()}, can I borrow your {item}?", f"{chat.greet()}, could you lend me your {item}?")
    chat.say(b, "What do you need it for?", "Why do you need it?")
    chat.say(a, f"For {purpose}.", f"I need it for {purpose}.")
    if chat.chance(0.4):
        chat.say(b, f"Sorry, {c} has it.", f"I am afraid I gave it to {c}.")
        chat.say(a, f"Then I will ask {c}.", f"Never mind, I will call {c}.")
        return f"{a} wants to borrow {b}'s {item} for {purpose}, but {c} has it."
    chat.say(b, f"Fine, but I need it back on {day}.", f"Of course. Bring it back on {day}, please.")
    chat.say(a, *CLOSINGS)
    return f"{a} will borrow {b}'s {item} for {purpose} and bring it back on {day}."


def _shopping(chat: Chat) -> str:
    a, b = chat.first, chat.second
    shop = chat.rng.choice(SHOPS)
    one, two, three = chat.rng.sample(GROCERIES, 3)
    chat.say(
        a, f"I am at the {shop}. Do you need anything?", f"{chat.greet()}, I am going to the {shop}. What do we need?"
    )
    chat.say(b, f"Yes, {one} and {two}, please.", f"We need {one} and {two}.")
    if chat.chance(0.4):
        chat.say(a, "Anything else?", "Is that all?")
        replaced = chat.chance(0.5)
        chat.say(
            b, f"Take {three} instead of {one if replaced else two}.", f"No {one if replaced else two}, get {three}."
        )
        one, two = (three, two) if replaced else (one, three)
    chat.say(a, *CLOSINGS)
    return f"{a} will buy {one} and {two} for {b} at the {shop}."


def _pick_up(chat: Chat) -> str:
    a, b, c = chat.first, chat.second, chat.third
    town, place = chat.inventor.town(), chat.rng.choice(PLACES)
    time, late = chat.two(TIMES)
    transport = chat.rng.choice([*TRANSPORT[:2], "boat", "plane"])
    chat.say(
        a,
        f"My {transport} gets to {town} at {time}. Can you pick me up?",
        f"Can you collect me in {town}? My {transport} arrives at {time}.",
    )
    driver = b
    if chat.chance(0.4):
        chat.say(b, f"I have no time, but {c} can come.", f"Sorry, I cannot, ask {c}. {c} has the car.")
        driver = c
    else:
        chat.say(b, "Sure, no problem.", "Yes, I will be there.")
    if chat.chance(0.4):
        chat.say(a, f"It is late, we arrive at {late}.", f"Oh, now they say {late} instead of {time}.")
        time = late
    chat.say(b, f"Wait at the {place}.", f"OK. Please wait at the {place}.")
    return f"{driver} will pick up {a} in {town} at {time}. {a} will wait at the {place}."


def _cancelling(chat: Chat) -> str:
    a, b = chat.first, chat.second
    event, (day, other_day) = chat.rng.choice(EVENTS), chat.two(DAYS)
    excuse = chat.rng.choice(list(EXCUSES))
    chat.say(
        a,
        f"I cannot come to the {event} on {day}, {excuse}.",
        f"{chat.greet()}, {excuse}. I will miss the {event} on {day}.",
    )
    if chat.chance(0.5):
        chat.say(b, f"Shall we move it to {other_day}?", f"What a pity! Is {other_day} better?")
        chat.say(a, "Yes, that works.", f"{other_day} is perfect.")
        return f"{a} {EXCUSES[excuse]} and cannot come on {day}. {b} will move the {event} to {other_day}."
    chat.say(b, "What a pity!", "Oh no, maybe next time.")
    chat.say(a, "I am so sorry.", "Have fun without me.")
    return f"{a} {EXCUSES[excuse]} and cannot come to the {event} on {day}."


def _news(chat: Chat) -> str:
    a, b = chat.first, chat.second
    news, place, day = chat.rng.choice(list(NEWS)), chat.rng.choice(PLACES), chat.rng.choice(DAYS)
    town = chat.inventor.town()
    chat.say(a, f"{chat.greet()}, guess what! {news} in {town}.", f"Big news: {news} in {town}!")
    chat.say(b, "Wow, congratulations!", "That is great!", "I am so happy for you!")
    chat.say(a, f"Let us celebrate on {day} at the {place}.", f"I invite you to the {place} on {day}.")
    chat.say(b, *CLOSINGS)
    return f"{a} {NEWS[news]} in {town}. {a} and {b} will celebrate at the {place} on {day}."


def _lost(chat: Chat) -> str:
    a, b = chat.first, chat.second
    item, (spot, other_spot) = chat.rng.choice(LOST), chat.two(SPOTS)
    chat.say(a, f"{chat.greet()}, have you seen my {item}?", f"I cannot find my {item}, {b}. Any idea?")
    chat.say(b, f"Did you look {spot}?", f"Maybe {spot}?")
    if chat.chance(0.5):
        chat.say(a, "Not there.", "No, nothing.")
        chat.say(b, f"Then try {other_spot}.", f"And {other_spot}?")
        spot = other_spot
    chat.say(a, "Yes, there! Thanks!", "Found! Thank you!")
    return (
        f"{a} was looking for the {item} and found them {spot}."
        if item.endswith("s")
        else (f"{a} was looking for the {item} and found it {spot}.")
    )


def _book_talk(chat: Chat) -> str:
    a, b, c = chat.first, chat.second, chat.third
    title, author, verdict = chat.inventor.book(), chat.inventor.surname(), chat.rng.choice(VERDICTS)
    chat.say(a, f"{b}, did you read {title} by {author}?", f"How is {title} by {author}, {b}?")
    chat.say(b, f"I finished it, it is {verdict}.", f"Honestly, I found it {verdict}.")
    reader = a
    if chat.chance(0.4):
        chat.say(a, "Can I have it next?", "Could you lend it to me?")
        chat.say(b, f"I promised it to {c}, sorry.", f"First {c} gets it.")
        reader = c
    else:
        chat.say(a, "Can I have it next?", "I want to read it too.")
        chat.say(b, "Of course.", "Sure, I will bring it.")
    return f"{b} found {title} by {author} {verdict}. {reader} will read it next."


def _office(chat: Chat) -> str:
    a, b, c = chat.first, chat.second, chat.third
    document, day, time = chat.rng.choice(DOCUMENTS), chat.rng.choice(DAYS), chat.rng.choice(TIMES)
    company = chat.inventor.company()
    chat.say(a, f"{chat.greet()}, where is the {document} for {company}?", f"I need the {document} for {company}, {b}.")
    if chat.chance(0.4):
        chat.say(b, f"{c} is working on it.", f"Ask {c}, it is not mine.")
        chat.say(a, f"Please tell {c} I need it on {day} by {time}.", f"Then {c} must send it on {day} by {time}.")
        writer = c
    else:
        chat.say(b, "I am still working on it.", "Almost done. When do you need it?")
        chat.say(a, f"Please send it on {day} by {time}.", f"I need it on {day} by {time}.")
        writer = b
    chat.say(b, *CLOSINGS)
    return f"{writer} will send {a} the {document} for {company} on {day} by {time}."


def _travel(chat: Chat) -> str:
    a, b, c = chat.first, chat.second, chat.third
    town, days = chat.inventor.town(), chat.rng.randint(2, 14)
    transport, other = chat.two(TRANSPORT)
    chat.say(
        a, f"I am going to {town} for {days} days.", f"{chat.greet()}, next week I will be in {town} for {days} days."
    )
    chat.say(b, "Alone?", "Who is coming with you?")
    chat.say(a, f"With {c}.", f"No, {c} is coming too.")
    chat.say(b, f"By {transport}?", f"Will you go by {transport}?")
    if chat.chance(0.5):
        chat.say(a, f"No, by {other}.", f"The {transport} is too expensive. We take the {other}.")
        transport = other
    else:
        chat.say(a, "Yes.", "Exactly.")
    return f"{a} is going to {town} with {c} for {days} days. They will go by {transport}."


SCENES: tuple[Callable[[Chat], str], ...] = (
    _meeting,
    _borrowing,
    _shopping,
    _pick_up,
    _cancelling,
    _news,
    _lost,
    _book_talk,
    _office,
    _travel,
)


def invented_dialogues(split: str, count: int, seed: int = 0) -> list[dict]:
    """Short invented chats and what was agreed in them.

    Args:
        split: "train", "validation" or "test"; no pair of speakers of one split occurs in another.
        count: how many examples; a longer list begins with the shorter one.
        seed: another seed gives other examples of the same split.

    Returns:
        Dicts with the columns of SAMSum: id, dialogue (turns "Name: text" separated by newlines), summary.
    """
    inventor = Inventor(split, random.Random(f"dialogues {split} {seed}"))
    examples = []
    for number in range(count):
        chat = Chat(inventor, *inventor.speakers())
        summary = inventor.rng.choice(SCENES)(chat)
        examples.append(
            {"id": f"{split}-{seed}-dialogue-{number}", "dialogue": "\n".join(chat.turns), "summary": summary}
        )
    return examples
