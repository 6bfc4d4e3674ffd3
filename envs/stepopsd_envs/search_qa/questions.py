"""Questions about a generated world, in the manner of the seven benchmarks.

| source | what is asked |
|---|---|
| nq | one fact, typed in lower case |
| triviaqa | one fact, as in a quiz |
| popqa | one fact, from a template |
| hotpotqa | 80 % a bridge of two facts, 20 % a comparison of two persons |
| 2wikimultihopqa | 40 % a family inference (grandparents, in-laws), 60 % two facts in a row |
| bamboogle | two facts from a company, a university or a city |
| musique | three facts in a row |

Comparisons ask for something of the older person, not for one of two names: a guesser would be
right half of the time.
"""

import random
from collections.abc import Iterator

from stepopsd_envs.search_qa.relations import RELATIONS
from stepopsd_envs.search_qa.world import Lookup, Question, World

_FAMILY = {
    ("father", "father"): "Who is the paternal grandfather of {s}?",
    ("father", "mother"): "Who is the paternal grandmother of {s}?",
    ("mother", "father"): "Who is the maternal grandfather of {s}?",
    ("mother", "mother"): "Who is the maternal grandmother of {s}?",
    ("spouse", "father"): "Who is the father-in-law of {s}?",
    ("spouse", "mother"): "Who is the mother-in-law of {s}?",
}
_COMPARISON = "In which city was the older of {a} and {b} born?"
_FAMILY_SHARE = 0.4
_COMPARISON_SHARE = 0.2
_START_KINDS = {
    "hotpotqa": ("film", "book"),
    "2wikimultihopqa": ("film", "book"),
    "bamboogle": ("company", "university", "city"),
    "musique": ("film", "book", "company", "university"),
}
_HOPS = {"musique": 3}
_STYLES = {"nq": "plain", "triviaqa": "descriptive", "popqa": "template"}
_MAX_DRAWS = 10_000


def world_questions(world: World, seed: str) -> tuple[Question, ...]:
    """Returns the questions of a world in random order, as many of each source, none twice.

    Raises:
        RuntimeError: The world is too small for that many different questions.
    """
    if world.level.is_single_sentence:
        return _single_sentence_questions(world, seed)
    rng = random.Random(f"questions {seed}")
    drawn: dict[str, Question] = {}
    for number in range(world.level.questions):
        source = world.level.sources[number % len(world.level.sources)]
        for _ in range(_MAX_DRAWS):
            question = _draw(world, source, rng)
            if question is not None and question.text not in drawn:
                drawn[question.text] = question
                break
        else:
            raise RuntimeError(
                f"questions={world.level.questions}: the world has no more different questions "
                f"of the source {source!r}. Give it more entities."
            )
    # Sources in turn would give an evenly spaced selection of tasks some sources and not others.
    questions = list(drawn.values())
    random.Random(f"order {seed}").shuffle(questions)
    return tuple(questions)


def _single_sentence_questions(world: World, seed: str) -> tuple[Question, ...]:
    questions = [
        _question("popqa", RELATIONS[relation].template.format(s=subject), [lookup])
        for subject, relation in world.facts
        for lookup in (world.lookup(subject, relation),)
    ]
    random.Random(f"questions {seed}").shuffle(questions)
    return tuple(questions[: world.level.questions])


def _draw(world: World, source: str, rng: random.Random) -> Question | None:
    if source in _STYLES:
        return _one_hop(world, source, rng)
    if source == "hotpotqa" and rng.random() < _COMPARISON_SHARE:
        return _comparison(world, rng)
    if source == "2wikimultihopqa" and rng.random() < _FAMILY_SHARE:
        return _family(world, rng)
    return _chain(world, source, rng)


def _one_hop(world: World, source: str, rng: random.Random) -> Question:
    style = _STYLES[source]
    asked = [name for name, relation in RELATIONS.items() if getattr(relation, style)]
    subject, relation = rng.choice(list(_facts_of(world, rng.choice(asked))))
    text = getattr(RELATIONS[relation], style).format(s=subject)
    if source == "nq":
        text = text.lower()
    return _question(source, text, [world.lookup(subject, relation)])


def _facts_of(world: World, relation: str) -> Iterator[tuple[str, str]]:
    for subject in world.entities[RELATIONS[relation].subject]:
        if (subject, relation) in world.facts:
            yield subject, relation


def _comparison(world: World, rng: random.Random) -> Question | None:
    one, other = rng.sample(world.entities["person"], 2)
    if world.birthdays[one] == world.birthdays[other]:
        return None
    older = min(one, other, key=world.birthdays.__getitem__)
    lookups = [
        world.lookup(one, "birthdate"),
        world.lookup(other, "birthdate"),
        world.lookup(older, "birthplace"),
    ]
    return _question("hotpotqa", _COMPARISON.format(a=one, b=other), lookups)


def _family(world: World, rng: random.Random) -> Question | None:
    relations = rng.choice(list(_FAMILY))
    subject = rng.choice(world.entities["person"])
    lookups = _follow(world, subject, relations)
    if lookups is None:
        return None
    return _question("2wikimultihopqa", _FAMILY[relations].format(s=subject), lookups)


def _chain(world: World, source: str, rng: random.Random) -> Question | None:
    """Follows relations at random from an entity; the last one must have a question of its own."""
    kind = rng.choice(_START_KINDS[source])
    subject = rng.choice(world.entities[kind])
    relations: list[str] = []
    for hop in range(_HOPS.get(source, 2)):
        is_last = hop == _HOPS.get(source, 2) - 1
        attribute = "template" if is_last else "noun"
        choices = [
            name
            for name, relation in RELATIONS.items()
            if relation.subject == kind
            and getattr(relation, attribute)
            and (is_last or relation.value in world.entities)
        ]
        if not choices:
            return None
        relations.append(rng.choice(choices))
        kind = RELATIONS[relations[-1]].value
    lookups = _follow(world, subject, relations)
    if lookups is None or len({lookup.subject for lookup in lookups}) < len(lookups):
        return None
    phrase = subject
    for relation in relations[:-1]:
        phrase = RELATIONS[relation].noun.format(s=phrase)
    text = RELATIONS[relations[-1]].template.format(s=phrase)
    return None if lookups[-1].value in text else _question(source, text, lookups)


def _follow(
    world: World, subject: str, relations: tuple[str, ...] | list[str]
) -> list[Lookup] | None:
    lookups: list[Lookup] = []
    for relation in relations:
        if (subject, relation) not in world.facts:
            return None
        lookups.append(world.lookup(subject, relation))
        subject = lookups[-1].value
    return lookups


def _question(source: str, text: str, lookups: list[Lookup]) -> Question:
    return Question(
        text=text,
        golden_answers=(lookups[-1].value,),
        data_source=source,
        lookups=tuple(lookups),
    )
