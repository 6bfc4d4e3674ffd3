"""The original WebShop's own page and reward code, run beside ours with the same search and tagger.

Needs a checkout of princeton-nlp/WebShop, named by $WEBSHOP_ORIGINAL, and the packages that its
page code uses: flask, beautifulsoup4, thefuzz. Its search engine (Java), its language model and
what it never uses of torch and gym are stood in for.
"""

import importlib
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from stepopsd_envs.webshop.nouns import NounTagger
from stepopsd_envs.webshop.official import OfficialFiles
from stepopsd_envs.webshop.shop import Shop


class Reply(NamedTuple):
    """What the original answers: both observations, what is available, reward, end."""

    text: str
    rich: str
    has_search_bar: bool
    clickables: tuple[str, ...]
    reward: float
    done: bool


class Original:
    """One environment of the original over the given files."""

    def __init__(
        self,
        root: Path,
        files: OfficialFiles,
        shop: Shop,
        *,
        nouns: NounTagger,
        human: bool,
        seed: int,
    ):
        """Loads the code; `shop` is its search engine, `seed` what it draws unseeded with."""
        site = _import_site(root, nouns)
        engine, text_env = site["engine"], site["text_env"]
        engine.DEFAULT_ATTR_PATH, engine.HUMAN_ATTR_PATH = files.annotations, files.human
        text_env.init_search_engine = lambda num_products=None: _SearchEngine(shop)
        random.seed(seed)
        self.server = text_env.SimServer("http://127.0.0.1:3000", files.products, human_goals=human)
        self.env = text_env.WebAgentTextEnv(
            observation_mode="text", file_path=files.products, server=self.server
        )

    @property
    def goals(self) -> Sequence[dict[str, Any]]:
        """All goals, shuffled."""
        return self.server.goals

    @property
    def prices(self) -> dict[str, float]:
        """What each product costs."""
        return self.server.product_prices

    def reset(self, goal: int) -> Reply:
        """Starts a goal by its place."""
        self.server.user_sessions.clear()
        self.env.reset(session=goal)
        return self._reply(0.0, False)

    def step(self, action: str) -> Reply:
        """Does an action."""
        _, reward, done, _ = self.env.step(action)
        return self._reply(reward, done)

    def _reply(self, reward: float, done: bool) -> Reply:
        observed = {}
        for mode in ("text", "text_rich"):
            self.env.observation_mode = mode
            observed[mode] = self.env.observation
        available = self.env.get_available_actions()
        return Reply(
            text=observed["text"],
            rich=observed["text_rich"],
            has_search_bar=available["has_search_bar"],
            clickables=tuple(available["clickables"]),
            reward=float(reward),
            done=done,
        )


class _Document:
    def __init__(self, asin: str):
        self.docid = asin

    def raw(self) -> str:
        return json.dumps({"id": self.docid})


class _SearchEngine:
    def __init__(self, shop: Shop):
        self._shop = shop

    def search(self, query: str, k: int) -> list[_Document]:
        found = self._shop.search(query)[:k]
        return [_Document(self._shop.product(number).asin) for number in found]

    def doc(self, asin: str) -> _Document:
        return _Document(asin)


class _Token(NamedTuple):
    text: str
    pos_: str


def _stand_in(name: str, **content: Any) -> None:
    module = ModuleType(name)
    for key, value in content.items():
        setattr(module, key, value)
    sys.modules[name] = module


def _import_site(root: Path, nouns: NounTagger) -> dict[str, Any]:
    def load(name: str) -> Any:
        del name
        return lambda title: [_Token(noun, "NOUN") for noun in nouns(title)]

    _stand_in("spacy", load=load)
    _stand_in("gym", Env=object)
    _stand_in("torch")
    _stand_in("cleantext")
    _stand_in("rich", print=lambda *texts: None)  # the real one draws random numbers to print
    _stand_in("rank_bm25", BM25Okapi=None)
    _stand_in("pyserini")
    _stand_in("pyserini.search")
    _stand_in("pyserini.search.lucene", LuceneSearcher=None)
    # Its package imports a browser's driver, which the text environment does not use.
    for package in ("web_agent_site", "web_agent_site.engine", "web_agent_site.envs"):
        _stand_in(package, __path__=[str(root / package.replace(".", "/"))])
    return {
        "engine": importlib.import_module("web_agent_site.engine.engine"),
        "text_env": importlib.import_module("web_agent_site.envs.web_agent_text_env"),
    }
