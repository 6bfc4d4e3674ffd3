"""What can be true in a generated world, how a passage says it, and how a question asks for it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """A fact pattern: each subject of the kind has exactly one value.

    In the texts, {s} is the subject and {v} the value.

    Attributes:
        subject: Kind of the subject.
        value: Kind of the value: an entity kind, or "date", "year", "count" or a word list's name.
        statements: Paraphrases of the fact; a passage uses one.
        cue: Words that find the fact in a search.
        noun: Noun phrase for the value, for questions of several hops; "" if it is never a bridge.
        plain: Question in lower case, as people type it; "" if it is never asked for.
        descriptive: Question as in a quiz.
        template: Question of the kind that is filled in by a program.
    """

    subject: str
    value: str
    statements: tuple[str, str]
    cue: str
    noun: str = ""
    plain: str = ""
    descriptive: str = ""
    template: str = ""


RELATIONS: dict[str, Relation] = {
    "birthplace": Relation(
        subject="person",
        value="city",
        statements=("{s} was born in {v}.", "{s} is a native of {v}."),
        cue="born",
        noun="the birthplace of {s}",
        plain="where was {s} born",
        descriptive="In which city did {s} first see the light of day?",
        template="In what city was {s} born?",
    ),
    "birthdate": Relation(
        subject="person",
        value="date",
        statements=("The date of birth is {v}.", "The birth took place on {v}."),
        cue="born",
        plain="when was {s} born",
        descriptive="On which day does {s} celebrate a birthday for the first time?",
        template="What is the date of birth of {s}?",
    ),
    "profession": Relation(
        subject="person",
        value="profession",
        statements=("{s} worked as a {v}.", "By profession {s} is a {v}."),
        cue="profession",
    ),
    "father": Relation(
        subject="person",
        value="person",
        statements=("The father of {s} is {v}.", "{s} is a child of the father {v}."),
        cue="father",
        noun="the father of {s}",
        plain="who is the father of {s}",
        descriptive="Which man brought up {s} as a father?",
        template="Who is the father of {s}?",
    ),
    "mother": Relation(
        subject="person",
        value="person",
        statements=("The mother is {v}.", "{v} is the name of the mother."),
        cue="mother",
        noun="the mother of {s}",
        plain="who is the mother of {s}",
        descriptive="Which woman gave birth to {s}, as a mother?",
        template="Who is the mother of {s}?",
    ),
    "spouse": Relation(
        subject="person",
        value="person",
        statements=("{s} is married to the spouse {v}.", "{v} is the spouse of {s}."),
        cue="spouse",
        noun="the spouse of {s}",
        plain="who is the spouse of {s}",
        descriptive="Whom did {s} take as a spouse?",
        template="Who is the spouse of {s}?",
    ),
    "school": Relation(
        subject="person",
        value="university",
        statements=("{s} studied at {v}.", "{s} was a student of {v}."),
        cue="studied student",
        noun="the university where {s} studied",
        plain="where did {s} study",
        descriptive="Of which university was {s} a student?",
        template="At which university did {s} study?",
    ),
    "employer": Relation(
        subject="person",
        value="company",
        statements=("{s} works for {v}.", "The employer is {v}."),
        cue="works employer",
        noun="the company {s} works for",
        plain="who does {s} work for",
        descriptive="Which company has {s} on its payroll as an employer?",
        template="Which company does {s} work for?",
    ),
    "country": Relation(
        subject="city",
        value="country",
        statements=("{s} is a city in {v}.", "The city of {s} lies in {v}."),
        cue="city",
        noun="the country of {s}",
    ),
    "population": Relation(
        subject="city",
        value="count",
        statements=("Its population is {v}.", "{v} people form its population."),
        cue="population",
        plain="what is the population of {s}",
        descriptive="How many people make up the population of the city {s}?",
        template="What is the population of {s}?",
    ),
    "city_founded": Relation(
        subject="city",
        value="year",
        statements=("{s} was founded in {v}.", "The year {v} saw {s} founded."),
        cue="founded",
        plain="when was {s} founded",
        descriptive="In which year was the city of {s} founded?",
        template="In what year was {s} founded?",
    ),
    "mayor": Relation(
        subject="city",
        value="person",
        statements=("Its mayor is {v}.", "{v} holds the office of mayor."),
        cue="mayor",
        noun="the mayor of {s}",
        plain="who is the mayor of {s}",
        descriptive="Who governs the city of {s} as its mayor?",
        template="Who is the mayor of {s}?",
    ),
    "capital": Relation(
        subject="country",
        value="city",
        statements=("The capital of {s} is {v}.", "{s} has {v} as its capital."),
        cue="capital",
        noun="the capital of {s}",
        plain="what is the capital of {s}",
        descriptive="Which city serves {s} as its capital?",
        template="What is the capital of {s}?",
    ),
    "currency": Relation(
        subject="country",
        value="currency",
        statements=("Its currency is the {v}.", "People pay in {v}, its currency."),
        cue="currency",
    ),
    "language": Relation(
        subject="country",
        value="language",
        statements=("The language of {s} is {v}.", "{v} is the language of {s}."),
        cue="language",
    ),
    "founder": Relation(
        subject="company",
        value="person",
        statements=("{s} was started by its founder {v}.", "The founder of {s} is {v}."),
        cue="founder",
        noun="the founder of {s}",
        plain="who is the founder of {s}",
        descriptive="Which founder brought the company {s} to life?",
        template="Who is the founder of {s}?",
    ),
    "company_founded": Relation(
        subject="company",
        value="year",
        statements=("It was founded in {v}.", "Founded in {v}, it grew fast."),
        cue="founded",
        plain="when was {s} founded",
        descriptive="In which year was the company {s} founded?",
        template="In what year was {s} founded?",
    ),
    "headquarters": Relation(
        subject="company",
        value="city",
        statements=("{s} has its headquarters in {v}.", "The headquarters of {s} are in {v}."),
        cue="headquarters",
        noun="the city of the headquarters of {s}",
        plain="where are the headquarters of {s}",
        descriptive="From its headquarters in which city is {s} run?",
        template="In which city are the headquarters of {s}?",
    ),
    "industry": Relation(
        subject="company",
        value="industry",
        statements=("Its industry is {v}.", "It belongs to the {v} industry."),
        cue="industry",
    ),
    "director": Relation(
        subject="film",
        value="person",
        statements=("{s} is a film directed by {v}.", "The director of the film {s} is {v}."),
        cue="film directed director",
        noun="the director of the film {s}",
        plain="who directed {s}",
        descriptive="Which director made the film {s}?",
        template="Who is the director of {s}?",
    ),
    "film_year": Relation(
        subject="film",
        value="year",
        statements=("It was released in {v}.", "Its year of release is {v}."),
        cue="film released",
        plain="when was {s} released",
        descriptive="In which year was the film {s} released?",
        template="In what year was {s} released?",
    ),
    "star": Relation(
        subject="film",
        value="person",
        statements=("The star of {s} is {v}.", "{s} has {v} as its star."),
        cue="star",
        noun="the star of the film {s}",
        plain="who is the star of {s}",
        descriptive="Which star plays the leading part in the film {s}?",
        template="Who is the star of {s}?",
    ),
    "genre": Relation(
        subject="film",
        value="genre",
        statements=("Its genre is {v}.", "By genre it is a {v}."),
        cue="genre",
    ),
    "author": Relation(
        subject="book",
        value="person",
        statements=("{s} is a book written by {v}.", "The author of the book {s} is {v}."),
        cue="book written author",
        noun="the author of the book {s}",
        plain="who wrote {s}",
        descriptive="From the pen of which author comes the book {s}?",
        template="Who is the author of {s}?",
    ),
    "book_year": Relation(
        subject="book",
        value="year",
        statements=("It was published in {v}.", "Its year of publication is {v}."),
        cue="book published",
        plain="when was {s} published",
        descriptive="In which year was the book {s} published?",
        template="In what year was {s} published?",
    ),
    "university_city": Relation(
        subject="university",
        value="city",
        statements=("The campus of {s} is in {v}.", "{s} has its campus in {v}."),
        cue="campus",
        noun="the city where {s} has its campus",
        plain="where is the campus of {s}",
        descriptive="In which city can one walk over the campus of {s}?",
        template="In which city is the campus of {s}?",
    ),
    "university_founded": Relation(
        subject="university",
        value="year",
        statements=("It was founded in {v}.", "Founded in {v}, it is well known."),
        cue="founded",
        plain="when was {s} founded",
        descriptive="In which year was the university {s} founded?",
        template="In what year was {s} founded?",
    ),
    "rector": Relation(
        subject="university",
        value="person",
        statements=("The rector of {s} is {v}.", "{s} is led by the rector {v}."),
        cue="rector",
        noun="the rector of {s}",
        plain="who is the rector of {s}",
        descriptive="Which rector leads {s}?",
        template="Who is the rector of {s}?",
    ),
}

PASSAGE_RELATIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "person": (
        ("birthplace", "birthdate", "profession"),
        ("father", "mother", "spouse"),
        ("school", "employer"),
    ),
    "city": (("country", "population"), ("city_founded", "mayor")),
    "country": (("capital", "currency"), ("language",)),
    "company": (("founder", "company_founded"), ("headquarters", "industry")),
    "film": (("director", "film_year"), ("star", "genre")),
    "book": (("author", "book_year"),),
    "university": (("university_city", "university_founded"), ("rector",)),
}
"""The passages of each kind of entity; every relation is in exactly one."""

LITERALS: dict[str, tuple[str, ...]] = {
    "profession": ("painter", "physicist", "singer", "lawyer", "engineer", "poet", "chemist"),
    "currency": ("crown", "florin", "thaler", "ducat", "shilling"),
    "language": ("Northern", "Southern", "Coastal", "Highland", "Island"),
    "industry": ("steel", "glass", "paper", "toy", "shipping"),
    "genre": ("comedy", "drama", "thriller", "western", "musical"),
}

FILLERS = (
    "More about the subject is told in the local archives.",
    "Several books mention the topic in passing.",
    "The entry was last revised some years ago.",
    "Pictures can be seen in the regional collection.",
)
"""Sentences that say nothing, so that a passage is more than its facts."""
