# SPDX-License-Identifier: MIT
"""The constructed world of the embedded model: vocabulary, documents, prompts, answers, judges.

A document tells one event ("Yesterday, the old baker hides the key in the barn.") once or several
times among filler sentences. A prompt asks for the event in English or French, for the event as
JSON with given keys, or for a secret word that is hidden in the document. French and JSON appear in
answers only, never in documents. All randomness comes from the ``random.Random`` that is passed in.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Word:
    """One word of the world in both languages; a French noun includes its article."""

    english: str
    french: str


def _words(table: str) -> tuple[Word, ...]:
    return tuple(Word(*entry.strip().split("/")) for entry in table.split(","))


def _list(table: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(table.split(separator))


ROLES = _words(
    "farmer/le fermier, baker/le boulanger, teacher/le professeur, doctor/le docteur, king/le roi,"
    "queen/la reine, sailor/le marin, painter/le peintre, soldier/le soldat, singer/la chanteuse,"
    "dancer/la danseuse, judge/le juge, cook/le cuisinier, hunter/le chasseur,"
    "driver/le chauffeur, merchant/le marchand, poet/le poète, priest/le prêtre, pilot/le pilote,"
    "gardener/le jardinier, shepherd/le berger, witch/la sorcière, princess/la princesse,"
    "prince/le prince, knight/le chevalier, thief/le voleur, butcher/le boucher,"
    "tailor/le tailleur, guard/le gardien, neighbor/le voisin, boy/le garçon, girl/la fille,"
    "woman/la femme, mayor/le maire, clown/le clown, giant/le géant"
)
VERBS = _words(
    "sells/vend, finds/trouve, loses/perd, carries/porte, hides/cache, sees/voit, wants/veut,"
    "takes/prend, cleans/nettoie, breaks/casse, repairs/répare, paints/peint, draws/dessine,"
    "keeps/garde, brings/apporte, steals/vole, throws/jette, holds/tient, makes/fabrique,"
    "chooses/choisit, opens/ouvre, forgets/oublie, buys/achète, moves/déplace"
)
THINGS = _words(
    "bread/le pain, cheese/le fromage, soup/la soupe, book/le livre, letter/la lettre, key/la clé,"
    "hat/le chapeau, lamp/la lampe, table/la table, chair/la chaise, box/la boîte, ring/la bague,"
    "knife/le couteau, basket/le panier, bag/le sac, flower/la fleur, cake/le gâteau,"
    "map/la carte, clock/la pendule, mirror/le miroir, violin/le violon, drum/le tambour,"
    "boat/le bateau, cart/la charrette, rope/la corde, stone/la pierre, coat/le manteau,"
    "shirt/la chemise, bottle/la bouteille, glass/le verre, wheel/la roue, hammer/le marteau,"
    "net/le filet, coin/la pièce, doll/la poupée, candle/la bougie"
)
PLACES = _words(
    "village/le village, forest/la forêt, city/la ville, garden/le jardin, market/le marché,"
    "castle/le château, kitchen/la cuisine, river/la rivière, mountain/la montagne,"
    "library/la bibliothèque, station/la gare, harbor/le port, field/le champ, park/le parc,"
    "museum/le musée, tower/la tour, house/la maison, shop/le magasin, street/la rue,"
    "beach/la plage, desert/le désert, valley/la vallée, farm/la ferme, mill/le moulin,"
    "theater/le théâtre, palace/le palais, cave/la grotte, barn/la grange, prison/la prison,"
    "bank/la banque"
)
ADJECTIVES = _list(
    "old young happy tired small big quiet brave kind poor rich red blue green dark bright strange"
    " famous heavy new cold warm dirty golden lovely"
)
TIMES = _list(
    "Yesterday|Every day|In the morning|At night|In winter|In summer|Last year|On Monday"
    "|On Sunday|Sometimes|Today|One evening",
    "|",
)
NAMES = _list(
    "Anna Paul Tom Marie Lucas Emma Hugo Alice Louis Clara Leo Nina Oscar Rosa Victor Julia Simon"
    " Laura Adam Eva"
)
ANIMALS = _list("cat dog horse bird fox rabbit wolf bear duck goat sheep mouse frog owl lion")
NATURE = _list("tree cloud wind sun moon snow rain star hill lake road wall roof door window")
FOODS = _list(
    "lemon pepper salt sugar honey apple carrot onion tomato rice butter milk melon cherry ginger"
    " garlic orange banana walnut olive"
)
MOVES = _list("sleeps runs waits sings jumps walks laughs rests swims dreams")
NEARNESS = _list("near behind under beside")

FRENCH_INSTRUCTION = "Summarize in French"
ENGLISH_INSTRUCTIONS = ("Summarize in English", "Summarize")
JSON_INSTRUCTION = "Your response should follow exactly this template:"
JSON_KEYS = (("hero", "person"), ("action", "event"), ("object", "thing"), ("place", "scene"))
"""For each of the four slots of an event, the two names that its key may have."""


@dataclass(frozen=True)
class Event:
    """Who does what to which thing where: the content of a document."""

    role: Word
    verb: Word
    thing: Word
    place: Word

    @property
    def slots(self) -> tuple[Word, Word, Word, Word]:
        """The four words in the order of ``JSON_KEYS``."""
        return (self.role, self.verb, self.thing, self.place)

    def english(self) -> str:
        """Return the one right English summary."""
        return (
            f"The {self.role.english} {self.verb.english} the {self.thing.english}"
            f" in the {self.place.english}."
        )

    def french(self) -> str:
        """Return the one right French summary.

        Example:
            >>> baker = Word("baker", "le boulanger")
            >>> barn, key = Word("barn", "la grange"), Word("key", "la clé")
            >>> Event(baker, Word("hides", "cache"), key, barn).french()
            'Le boulanger cache la clé dans la grange.'

        """
        role = self.role.french
        rest = f"{self.verb.french} {self.thing.french} dans {self.place.french}."
        return f"{role[0].upper()}{role[1:]} {rest}"


@dataclass(frozen=True)
class Field:
    """One key of a JSON answer: its name and the slot of the event whose word it asks for."""

    slot: int
    key: str


class Style(Enum):
    """How an instruction is written; all but ``PLAIN`` are common ways to stress it.

    The embedded model has seen ``UPPER`` and ``IMPORTANT``; its world has no words for the others.
    """

    PLAIN = "plain"
    UPPER = "upper"
    IMPORTANT = "important"
    REPEATED = "repeated"
    ATTENTION = "attention"
    MOST = "most important"

    def apply(self, instruction: str) -> str:
        """Write ``instruction`` in this style.

        Example:
            >>> Style.UPPER.apply("Summarize in French")
            'SUMMARIZE IN FRENCH'

        """
        if self is Style.UPPER:
            return instruction.upper()
        if self is Style.REPEATED:
            return f"{instruction} {instruction}"
        return f"{_OPENINGS[self]}{instruction}" if self in _OPENINGS else instruction


_OPENINGS = {
    Style.IMPORTANT: "Important: ",
    Style.ATTENTION: "Pay close attention to this: ",
    Style.MOST: "This is the most important part: ",
}


def random_event(rng: random.Random) -> Event:
    """Draw an event; each slot is drawn uniformly."""
    return Event(rng.choice(ROLES), rng.choice(VERBS), rng.choice(THINGS), rng.choice(PLACES))


def _event_sentence(rng: random.Random, event: Event) -> str:
    role_adjective = f"{rng.choice(ADJECTIVES)} " if rng.random() < 0.4 else ""
    thing_adjective = f"{rng.choice(ADJECTIVES)} " if rng.random() < 0.3 else ""
    sentence = (
        f"he {role_adjective}{event.role.english} {event.verb.english}"
        f" the {thing_adjective}{event.thing.english} in the {event.place.english}."
    )
    return f"{rng.choice(TIMES)}, t{sentence}" if rng.random() < 0.4 else f"T{sentence}"


def _related_sentence(rng: random.Random, event: Event) -> str:
    word = rng.choice((event.role, event.thing, event.place)).english
    return rng.choice(
        (
            f"The {word} is {rng.choice(ADJECTIVES)}.",
            f"{rng.choice(NAMES)} likes the {word}.",
            f"The {event.role.english} talks to {rng.choice(NAMES)}.",
            f"People know the {event.place.english}.",
        )
    )


def _filler_sentence(rng: random.Random) -> str:
    name, animal, scenery = rng.choice(NAMES), rng.choice(ANIMALS), rng.choice(NATURE)
    return rng.choice(
        (
            f"The {animal} {rng.choice(MOVES)} {rng.choice(NEARNESS)} the {scenery}.",
            f"{name} eats the {rng.choice(FOODS)}.",
            f"{name} {rng.choice(MOVES)} with the {animal}.",
            f"The {scenery} is {rng.choice(ADJECTIVES)}.",
            f"{rng.choice(TIMES)}, {name} {rng.choice(MOVES)}.",
            f"{name} likes the {rng.choice(FOODS)} and the {rng.choice(FOODS)}.",
            f"{name} says that the {animal} is {rng.choice(ADJECTIVES)}.",
        )
    )


def document(rng: random.Random, event: Event, num_sentences: int) -> list[str]:
    """Write the sentences of a document about ``event``; the first one always tells the event."""
    sentences = [_event_sentence(rng, event)]
    for _ in range(num_sentences - 1):
        kind = rng.random()
        if kind < 0.2:
            sentences.append(_event_sentence(rng, event))
        elif kind < 0.4:
            sentences.append(_related_sentence(rng, event))
        else:
            sentences.append(_filler_sentence(rng))
    return sentences


def random_fields(rng: random.Random) -> tuple[Field, ...]:
    """Draw the two or three keys that a JSON prompt asks for, in random order."""
    slots = list(range(len(JSON_KEYS)))
    rng.shuffle(slots)
    return tuple(
        Field(slot, rng.choice(JSON_KEYS[slot])) for slot in slots[: rng.choice((2, 3, 3))]
    )


def schema(fields: tuple[Field, ...]) -> str:
    """Write the template that a JSON answer has to follow."""
    return "<schema> {" + ", ".join(f'"{field.key}": string' for field in fields) + "} </schema>"


def json_answer(fields: tuple[Field, ...], event: Event) -> str:
    """Write the one right JSON answer."""
    pairs = (f'"{field.key}": "{event.slots[field.slot].english}"' for field in fields)
    return "{" + ", ".join(pairs) + "}"


def needle_sentence(name: str, secret: str) -> str:
    """Write the sentence that is hidden in a document and is also the right answer."""
    return f"The secret word of {name} is {secret}."


def needle_question(name: str) -> str:
    """Write the question for a hidden sentence."""
    return f"<question> What is the secret word of {name}? </question>"


def hide(rng: random.Random, sentences: list[str], needle: str) -> list[str]:
    """Put ``needle`` at a random place among ``sentences``; every place is equally likely."""
    place = rng.randint(0, len(sentences))
    return [*sentences[:place], needle, *sentences[place:]]


_ENGLISH_PATTERN = re.compile(r"The (\S+) (\S+) the (\S+) in the (\S+)\.")
_FRENCH_PATTERN = re.compile(r"((?:Le|La) \S+) (\S+) ((?:le|la) \S+) dans ((?:le|la) \S+)\.")
_SLOT_WORDS = (ROLES, VERBS, THINGS, PLACES)
_ENGLISH_SLOTS = tuple({word.english for word in words} for words in _SLOT_WORDS)
_FRENCH_SLOTS = tuple({word.french for word in words} for words in _SLOT_WORDS)
_ENGLISH_WORDS = {"the", "in"}.union(*_ENGLISH_SLOTS)
_FRENCH_WORDS = {"dans"}.union(*(word.split() for slot in _FRENCH_SLOTS for word in slot))


def language(text: str) -> str:
    """Return ``"french"`` or ``"english"``, the language of most words of a text, or ``"other"``.

    Only words are counted, so the text need not be a sentence.
    """
    words = re.findall(r"[^\W\d_]+", text.lower())
    french = sum(word in _FRENCH_WORDS for word in words)
    english = sum(word in _ENGLISH_WORDS for word in words)
    if 2 * max(french, english) < max(2, len(words)):
        return "other"
    return "french" if french > english else "english"


def is_summary(text: str) -> bool:
    """Return whether ``text`` is a grammatical summary of some event, in either language."""
    if match := _FRENCH_PATTERN.fullmatch(text):
        role, *others = match.groups()
        words = (role[0].lower() + role[1:], *others)
        return all(word in slot for word, slot in zip(words, _FRENCH_SLOTS, strict=True))
    if match := _ENGLISH_PATTERN.fullmatch(text):
        return all(word in slot for word, slot in zip(match.groups(), _ENGLISH_SLOTS, strict=True))
    return False


def parse_object(text: str) -> dict[str, object] | None:
    """Parse ``text`` as one JSON object without repeated keys; ``None`` if it is not one."""

    def reject_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({key for key, _ in pairs}) < len(pairs):
            msg = "repeated key"
            raise ValueError(msg)
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=reject_repeated)
    except (ValueError, RecursionError):  # brackets within brackets, without end
        return None
    return value if isinstance(value, dict) else None
