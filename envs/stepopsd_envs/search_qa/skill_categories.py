"""Which skills a Search-QA question gets: by its data source, and by its wording."""

CATEGORIES = {
    "popqa": "entity_attribute_lookup",
    "nq": "direct_retrieval",
    "triviaqa": "direct_retrieval",
    "hotpotqa": "multi_hop",
    "2wiki": "multi_hop",
    "musique": "multi_hop",
    "bamboogle": "multi_hop",
}

# In all other sources the wording tells comparisons apart first, as in SDAR's code.
_SOURCES_WITHOUT_COMPARISONS = ("popqa", "nq", "triviaqa", "hotpotqa")


def skill_categories(data_source: str, question: str) -> tuple[str, ...]:
    """Category of a Search-QA question.

    Args:
        data_source: Name of the data set, such as "hotpotqa" or "2wikimultihopqa".
        question: The question, whose wording tells a comparison in the sources that mix them.

    Returns:
        One name, or none: an unknown source gets the general skills alone.
    """
    source = data_source.lower()
    category = next((name for part, name in CATEGORIES.items() if source.startswith(part)), None)
    words = question.lower()
    # Bare substrings, "or" inside "world" included, as SDAR's code has them.
    looks_like_choice = "which" in words and "or" in words and "for" not in words
    if looks_like_choice and not source.startswith(_SOURCES_WITHOUT_COMPARISONS):
        return ("comparison",)
    return () if category is None else (category,)
