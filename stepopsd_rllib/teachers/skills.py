"""Skill libraries: short texts that tell a teacher how tasks of a kind are solved.

A library is a folder of Markdown files, `general.md` and one a category, or one JSON bank:

    # Objects that must be heated              {"general": [{"skill_id": "heat-1", "title": ...,
    Keywords: heat, hot                           "principle": ..., "when_to_apply": ...}],
                                                "categories": {"pick_heat": [ ... ]}}
    ## Heat before you carry {#heat-1}
    Principle: ...
    When to apply: ...

SkillRL's key names, `general_skills` and `task_specific_skills`, are read too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepopsd_envs.text_env import TextEnv, nearest
from stepopsd_envs.text_files import read_json, read_text

_FIELDS = ("skill_id", "title", "principle", "when_to_apply")


class SkillLibraryError(ValueError):
    """A skill library that cannot be used: what is wrong in which file, and the fix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Skill:
    """One item of a library.

    Attributes:
        skill_id: Unique within the library.
        title: A few words.
        principle: What to do and why, one to three sentences.
        when_to_apply: The condition of use.
    """

    skill_id: str
    title: str
    principle: str
    when_to_apply: str

    def text(self) -> str:
        """The item as the teacher reads it."""
        return f"- {self.title}: {self.principle} (When: {self.when_to_apply})"


@dataclass(frozen=True, kw_only=True, slots=True)
class SkillCategory:
    """The skills of one kind of task.

    Attributes:
        name: Name of the category; the stem of its file.
        heading: Line above the items.
        keywords: Lower-case words that call for this category in keyword retrieval.
        skills: At least one item.
    """

    name: str
    heading: str
    keywords: tuple[str, ...]
    skills: tuple[Skill, ...]

    def text(self) -> str:
        """Heading and items, one a line."""
        return "\n".join([f"{self.heading}:", *(skill.text() for skill in self.skills)])


@dataclass(frozen=True, kw_only=True, slots=True)
class SkillLibrary:
    """General skills and those of each category.

    Attributes:
        source: File or folder the library was read from, for messages.
        general: Skills that every task gets.
        categories: The others, by name.
    """

    source: str
    general: SkillCategory
    categories: Mapping[str, SkillCategory]

    def text(self, categories: Sequence[str] = ()) -> str:
        """The general skills, a blank line, then those of the categories, in order.

        Args:
            categories: Names of categories, from one of the `*_categories` functions.

        Returns:
            Text without surrounding whitespace.

        Raises:
            SkillLibraryError: A name that the library does not have.
        """
        for name in categories:
            if name not in self.categories:
                raise SkillLibraryError(
                    f"{self.source}: no skills for category {name!r}; it has "
                    f"{', '.join(sorted(self.categories))}. Add {name}.md or ask for one of these."
                )
        return "\n\n".join(
            part.text() for part in (self.general, *(self.categories[name] for name in categories))
        )

    def full_text(self) -> str:
        """Everything: the `skill_all` setting of SDAR's code."""
        return self.text(sorted(self.categories))

    def __len__(self) -> int:
        """Number of items."""
        parts = (self.general, *self.categories.values())
        return sum(len(part.skills) for part in parts)


def environment_library(env: type[TextEnv], name: str | None = None) -> SkillLibrary:
    """A library that an environment brings.

    Args:
        env: Class of the environment.
        name: Which of its `skill_libraries`; None for the first.

    Raises:
        SkillLibraryError: It has none, or not that one.
    """
    libraries = env.skill_libraries
    if not libraries:
        raise SkillLibraryError(
            f"config.skills={name or 'packaged'!r}: {env.__name__} brings no skills. Set "
            f"{env.__name__}.skill_libraries, or give the path of a folder of Markdown files or of "
            "a JSON bank."
        )
    if name is not None and name not in libraries:
        raise SkillLibraryError(
            f"config.skills={name!r}: neither a path nor a library of {env.__name__}."
            f"{nearest(name, list(libraries))} Use one of {', '.join(libraries)}, or a path."
        )
    return load_library(libraries[name or next(iter(libraries))])


def load_library(path: str | Path) -> SkillLibrary:
    """Reads a library.

    Args:
        path: Folder of Markdown files with a `general.md`, or a JSON bank.

    Returns:
        The library, every category with at least one item, every `skill_id` once.

    Raises:
        SkillLibraryError: The path or a file in it cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        parts = [_read_markdown(file) for file in sorted(path.glob("*.md"))]
    elif path.suffix == ".json" and path.is_file():
        parts = _read_bank(path)
    else:
        raise SkillLibraryError(
            f"{path}: neither a folder of Markdown files nor a JSON bank. Pass one of the two."
        )
    by_name = {part.name: part for part in parts}
    if "general" not in by_name:
        raise SkillLibraryError(
            f"{path}: no general skills. Add general.md (or the key 'general')."
        )
    _refuse_duplicates(path, parts)
    general = by_name.pop("general")
    return SkillLibrary(source=str(path), general=general, categories=by_name)


def _read_markdown(file: Path) -> SkillCategory:
    head, *sections = re.split(r"^## ", read_text(file, SkillLibraryError), flags=re.MULTILINE)
    heading = re.search(r"^# (.+)$", head, flags=re.MULTILINE)
    keywords = re.search(r"^Keywords: *(.+)$", head, flags=re.MULTILINE)
    return SkillCategory(
        name=file.stem,
        heading=heading.group(1).strip() if heading else file.stem.replace("_", " "),
        keywords=tuple(word.strip().lower() for word in keywords.group(1).split(","))
        if keywords
        else (),
        skills=_checked(file, [_markdown_item(section) for section in sections]),
    )


def _markdown_item(section: str) -> dict[str, str]:
    first, _, body = section.partition("\n")
    named = re.match(r"(?P<title>.*?)\s*\{#(?P<skill_id>[\w-]+)\}\s*$", first)
    item = named.groupdict() if named else {"title": first.strip()}
    for field, label in (("principle", "Principle"), ("when_to_apply", "When to apply")):
        found = re.search(
            rf"^{label}:\s*(.+?)(?=^\w[\w ]*:|\Z)", body, flags=re.MULTILINE | re.DOTALL
        )
        if found:
            item[field] = " ".join(found.group(1).split())
    return item


def _read_bank(path: Path) -> list[SkillCategory]:
    bank = read_json(path, SkillLibraryError)
    if not isinstance(bank, dict):
        raise SkillLibraryError(f"{path}: a {type(bank).__name__}, not an object of skill lists.")
    general = bank.get("general", bank.get("general_skills", []))
    categories = bank.get("categories", bank.get("task_specific_skills", {}))
    if not isinstance(categories, dict):
        raise SkillLibraryError(
            f"{path}: its categories are a {type(categories).__name__}, not an object of lists."
        )
    lists: dict[str, Any] = {"general": general, **categories}
    return [
        SkillCategory(
            name=name,
            heading=f"Skills, {name.replace('_', ' ')}",
            keywords=(name.replace("_", " ").lower(),),
            skills=_checked(f"{path} ({name})", items),
        )
        for name, items in lists.items()
    ]


def _checked(source: Path | str, items: Any) -> tuple[Skill, ...]:
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise SkillLibraryError(f"{source}: not a list of objects, one for each skill.")
    skills = []
    for number, item in enumerate(items, start=1):
        missing = [field for field in _FIELDS if not str(item.get(field) or "").strip()]
        if missing:
            raise SkillLibraryError(
                f"{source}: item {number} ({item.get('title') or 'untitled'!r}) lacks "
                f"{', '.join(missing)}. Every skill needs {', '.join(_FIELDS)}."
            )
        skills.append(Skill(**{field: str(item[field]).strip() for field in _FIELDS}))
    if not skills:
        raise SkillLibraryError(
            f"{source}: not a single skill in it. Add an item or delete the file."
        )
    return tuple(skills)


def _refuse_duplicates(path: Path, parts: Iterable[SkillCategory]) -> None:
    seen: dict[str, str] = {}
    for part in parts:
        for skill in part.skills:
            if skill.skill_id in seen:
                raise SkillLibraryError(
                    f"{path}: skill_id {skill.skill_id!r} stands in {seen[skill.skill_id]} and in "
                    f"{part.name}. Give each skill its own id."
                )
            seen[skill.skill_id] = part.name
