"""Generated knowledge worlds: entities, passages that each fact stands in once, and questions.

A world follows from its level and number alone. Worlds of different splits have different numbers,
so that nothing learnt by heart in training is true in evaluation.
"""

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from stepopsd_envs.search_qa.names import names
from stepopsd_envs.search_qa.relations import FILLERS, LITERALS, PASSAGE_RELATIONS, RELATIONS
from stepopsd_envs.search_qa.retriever import Passage

Fact = tuple[str, str]
"""Subject and relation; the world knows the value."""

_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_GENERATION_BIRTH_YEARS = ((1850, 1885), (1886, 1920), (1921, 1955))
_FOUNDING_YEARS = (1500, 1950)
_RELEASE_YEARS = (1920, 2020)
_POPULATIONS = (10_000, 4_000_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """How hard a world is.

    Attributes:
        entities: Number of entities of each kind.
        sources: Data sources whose style of question is asked, all equally often.
        questions: Number of questions.
        top_k: Passages a search should return.
        worlds: Number of worlds in "train", "valid_seen" and "valid_unseen".
        pool_share: Share of the name words used.
        is_single_sentence: One kind of passage, of one sentence, and questions that quote it.
    """

    entities: Mapping[str, int]
    sources: tuple[str, ...]
    questions: int
    top_k: int
    worlds: Mapping[str, int]
    pool_share: float = 1.0
    is_single_sentence: bool = False


def _worlds(train: int, valid: int) -> dict[str, int]:
    return {"train": train, "valid_seen": valid, "valid_unseen": valid}


def _entities(*counts: int) -> dict[str, int]:
    return dict(zip(PASSAGE_RELATIONS, counts, strict=True))


ONE_HOP_SOURCES = ("nq", "popqa", "triviaqa")
TWO_HOP_SOURCES = (*ONE_HOP_SOURCES, "2wikimultihopqa", "bamboogle", "hotpotqa")

LEVELS: dict[str, Level] = {
    "easy": Level(
        entities={"person": 40, "city": 40, "company": 40},
        sources=("popqa",),
        questions=80,
        top_k=1,
        worlds=_worlds(64, 4),
        pool_share=0.4,
        is_single_sentence=True,
    ),
    "one_hop": Level(
        entities=_entities(90, 60, 6, 60, 60, 40, 40),
        sources=ONE_HOP_SOURCES,
        questions=240,
        top_k=3,
        worlds=_worlds(32, 2),
    ),
    "two_hop": Level(
        entities=_entities(180, 80, 8, 80, 80, 50, 50),
        sources=TWO_HOP_SOURCES,
        questions=360,
        top_k=3,
        worlds=_worlds(16, 2),
    ),
    "full": Level(
        entities=_entities(900, 220, 30, 230, 320, 200, 100),
        sources=(*TWO_HOP_SOURCES, "musique"),
        questions=700,
        top_k=3,
        worlds=_worlds(4, 1),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Lookup:
    """One piece of knowledge that a question needs.

    Attributes:
        subject: Name that the passage is about.
        relation: What is looked up.
        value: What the passage says.
        statement: Text of the passage that says it.
    """

    subject: str
    relation: str
    value: str
    statement: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question, and how somebody who knows the way would find the answer.

    Attributes:
        text: The question.
        golden_answers: Answers that count as right.
        data_source: Benchmark whose kind of question it is.
        lookups: Lookups in an order in which each follows from the ones before; empty if not known.
    """

    text: str
    golden_answers: tuple[str, ...]
    data_source: str
    lookups: tuple[Lookup, ...] = ()


class World:
    """Facts of one world and the passages that state them."""

    def __init__(self, level: Level, seed: str):
        """Generates the world; the same level and seed give the same world on every machine."""
        self._rng = random.Random(f"world {seed}")
        self.level = level
        self.entities: dict[str, list[str]] = {}
        for kind, count in level.entities.items():
            drawn = names(kind, self._rng, pool_share=level.pool_share)
            self.entities[kind] = [next(drawn) for _ in range(count)]
        self.facts: dict[Fact, str] = {}
        self.statements: dict[Fact, str] = {}
        self.passages: list[Passage] = []
        self.birthdays: dict[str, date] = {}
        if level.is_single_sentence:
            self._state_single_sentences()
            return
        self._draw_facts()
        for kind, groups in PASSAGE_RELATIONS.items():
            for name in self.entities[kind]:
                for relations in groups:
                    self._state(name, relations)

    def lookup(self, subject: str, relation: str) -> Lookup:
        """Returns a fact with the text that states it."""
        fact = (subject, relation)
        return Lookup(
            subject=subject,
            relation=relation,
            value=self.facts[fact],
            statement=self.statements[fact],
        )

    def _state_single_sentences(self) -> None:
        """Gives every person a birthplace and an employer that no other person has."""
        for person, city, company in zip(
            self.entities["person"], self.entities["city"], self.entities["company"], strict=True
        ):
            sentence = f"{person} was born in {city} and works for {company}."
            for relation, value in (("birthplace", city), ("employer", company)):
                self.facts[person, relation] = value
                self.statements[person, relation] = sentence
            self._add_passage(person, sentence)

    def _draw_facts(self) -> None:
        self._draw_families()
        for name, relation in RELATIONS.items():
            if name in ("birthdate", "father", "mother", "spouse"):
                continue
            for subject in self.entities[relation.subject]:
                self.facts[subject, name] = self._draw_value(name, relation.value)

    def _draw_value(self, relation: str, kind: str) -> str:
        if kind in self.entities:
            return self._rng.choice(self.entities[kind])
        if kind in LITERALS:
            return self._rng.choice(LITERALS[kind])
        if kind == "count":
            return str(self._rng.randint(*_POPULATIONS))
        is_work = relation in ("film_year", "book_year")
        return str(self._rng.randint(*(_RELEASE_YEARS if is_work else _FOUNDING_YEARS)))

    def _draw_families(self) -> None:
        """Draws dates of birth, parents and marriages over three generations.

        A marriage is a fact of one of the two alone: said of both it would stand in two passages.
        """
        generations: list[list[str]] = [[], [], []]
        for index, person in enumerate(self.entities["person"]):
            generations[index % 3].append(person)
            first, last = (date(year, 1, 1) for year in _GENERATION_BIRTH_YEARS[index % 3])
            born = first + timedelta(days=self._rng.randrange((last - first).days))
            self.facts[person, "birthdate"] = f"{born.day} {_MONTHS[born.month - 1]} {born.year}"
            self.birthdays[person] = born
        for parents, children in itertools.pairwise(generations):
            for child in children:
                self.facts[child, "father"], self.facts[child, "mother"] = self._rng.sample(
                    parents, 2
                )
        for people in generations:
            for one, other in zip(people[::2], people[1::2], strict=False):
                self.facts[one, "spouse"] = other

    def _state(self, name: str, relations: tuple[str, ...]) -> None:
        sentences = []
        for relation in relations:
            if (name, relation) not in self.facts:
                continue
            statement = self._rng.choice(RELATIONS[relation].statements)
            sentences.append(statement.format(s=name, v=self.facts[name, relation]))
            self.statements[name, relation] = sentences[-1]
        if sentences:
            self._add_passage(name, " ".join([*sentences, self._rng.choice(FILLERS)]))

    def _add_passage(self, title: str, text: str) -> None:
        number = len(self.passages)
        self.passages.append(Passage(id=f"p{number:05d}", contents=f'"{title}"\n{text}'))
