"""Official files: what is read, how goals are split, and what is wrong with damaged ones."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from stepopsd_envs.text_env import SPLITS
from stepopsd_envs.webshop.env import WebShopEnv
from stepopsd_envs.webshop.generator import write_shop
from stepopsd_envs.webshop.official import find_files, read_products, stream_rows
from stepopsd_envs.webshop.tasks import WORKER_SEEDS, OfficialTasks

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("WEBSHOP_DATA", ROOT / "../shared/data/webshop_real"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"{DATA} holds no WebShop data (WEBSHOP_DATA)"
)


def tasks_of(folder: Path, **keys: Any) -> OfficialTasks:
    defaults = {
        "human": False,
        "num_products": None,
        "goal_seed": 233,
        "goal_shuffle": "fixed",
        "split_sizes": (500, 1000),
    }
    return OfficialTasks(str(folder), **{**defaults, **keys})


def texts(tasks: OfficialTasks, split: str) -> set[str]:
    return {tasks.task(name).goal.instruction for name in tasks.tasks(split)}


@needs_data
def test_genuine_products_give_the_known_number_of_goals():
    assert len(read_products(find_files(DATA))) == 700
    tasks = tasks_of(DATA)
    places = [int(name[-7:]) for split in SPLITS for name in tasks.tasks(split)]
    assert max(places) == 4580  # the sample expands to 4,581 goals
    assert len(tasks_of(DATA, human=True, split_sizes=(3, 3)).tasks("train")) == 6


def asked(tasks: OfficialTasks, split: str) -> set[tuple[Any, ...]]:
    """Product, attributes and options of each goal: what it asks for, whatever the price cap."""
    goals = (tasks.task(name).goal for name in tasks.tasks(split))
    return {(goal.asin, tuple(sorted(goal.attributes)), goal.options) for goal in goals}


@needs_data
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"goal_seed": 0},
        {"num_products": 350},
        {"split_sizes": (1000, 2000)},
        {"human": True, "split_sizes": (3, 3)},
    ],
)
def test_no_goal_of_training_is_evaluated_on(keys: dict[str, Any]):
    tasks = tasks_of(DATA, **keys)
    ids = [name for split in SPLITS for name in tasks.tasks(split)]
    assert len(ids) == len(set(ids))
    for of in (texts, asked):
        train, seen, unseen = (of(tasks, split) for split in SPLITS)
        assert not train & seen and not train & unseen and not seen & unseen
    test, development = keys.get("split_sizes", (500, 1000))
    assert len(tasks.tasks("valid_unseen")) == test
    assert development * 0.99 <= len(tasks.tasks("valid_seen")) <= development


@needs_data
def test_only_the_named_mode_leaks():
    tasks = tasks_of(DATA, goal_shuffle="verl_agent")
    assert {int(name[11:16]) for name in tasks.tasks("train")} == set(WORKER_SEEDS["train"])
    train = {tasks.task(name).goal.asin for name in tasks.tasks("train")[:4000]}
    evaluated = {tasks.task(name).goal.asin for name in tasks.tasks("valid_unseen")[:500]}
    assert len(evaluated & train) > len(evaluated) / 2
    with pytest.raises(ValueError, match="no second validation set"):
        tasks.tasks("valid_seen")


@needs_data
def test_most_genuine_goals_can_be_won_and_the_others_say_so():
    env = WebShopEnv(data=DATA, nouns="packaged")
    mended = WebShopEnv(data=DATA, nouns="packaged", strict_options=False)
    names = env.tasks("valid_unseen")
    solvable = [env.reset(options={"task": name})[1]["solvable"] for name in names]
    assert 0.90 <= sum(solvable) / len(names) < 1.0
    again = [mended.reset(options={"task": name})[1]["solvable"] for name in names]
    assert sum(again) >= 0.98 * len(names)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shop("tiny", 0, tmp_path)
    return tmp_path


def change(folder: Path, stem: str, edit: Any) -> None:
    (path,) = folder.glob(f"{stem}*.json")
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def opened(folder: Path, **keys: Any) -> WebShopEnv:
    env = WebShopEnv(data=folder, split_sizes=(5, 5), think="off", **keys)
    env.tasks("train")
    return env


def assert_one_line(error: pytest.ExceptionInfo[ValueError]) -> None:
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_named(folder: Path):
    (path,) = folder.glob("items_shuffle*.json")
    path.write_text(path.read_text()[:-100])
    with pytest.raises(
        ValueError, match=f"{path.name}: not JSON .*cut off: copy it again"
    ) as error:
        opened(folder)
    assert_one_line(error)


@pytest.mark.parametrize("content", [bytes(range(256)), b"\x1f\x8b\x08\x00"])
def test_a_file_that_is_no_text_is_named(folder: Path, content: bytes):
    (path,) = folder.glob("items_shuffle*.json")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name}: ") as error:
        opened(folder)
    assert_one_line(error)
    with pytest.raises(ValueError, match=f"{path.name}: ") as error:
        list(stream_rows(path))
    assert_one_line(error)


def test_a_damaged_entry_of_a_large_file_is_not_read_to_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("stepopsd_envs.webshop.official._PIECE_BYTES", 100)
    monkeypatch.setattr("stepopsd_envs.webshop.official._MAX_ENTRY_CHARACTERS", 5000)
    (path,) = folder.glob("items_shuffle*.json")
    whole = json.loads(path.read_text())
    assert list(stream_rows(path)) == whole
    text = path.read_text()
    damaged = text.index('"asin"', text.index('"asin"') + 1)
    path.write_text(f"{text[:damaged]}?{text[damaged:]}")
    rows = stream_rows(path)
    assert next(rows) == whole[0]
    with pytest.raises(ValueError, match="entry 1 cannot be read: the file is no JSON there"):
        next(rows)


@pytest.mark.parametrize(
    ("stem", "content", "message"),
    [
        ("items_shuffle", "{}", "holds a dict, not a list"),
        ("items_ins_v2", "[]", "holds a list, not a dict"),
        ("items_shuffle", '[{"title": "x"}]', "entry 0: asin=None is no text"),
        ("items_shuffle", '[{"asin": "B1"}]', "entry 0: name=None is no text"),
        ("items_shuffle", "[]", "no products"),
        ("items_shuffle", "[" * 100_000, "nested too deeply"),
        (
            "items_shuffle",
            '[{"asin": "Buy Now"}]',
            "entry 0: asin='Buy Now' is the name of a button",
        ),
        ("items_ins_v2", '{"B00000": "x"}', "'B00000': is a str, not a dict"),
        ("items_ins_v2", '{"B00000": {"instruction": 5}}', "'B00000': instruction=5 is no text"),
        (
            "items_ins_v2",
            '{"B00000": {"instruction_attributes": "soft"}}',
            "'B00000': instruction_attributes='soft' is no list of texts",
        ),
        ("items_human_ins", '{"B00000": ["x"]}', "'B00000': is no list of dicts"),
        ("items_human_ins", '{"B00000": [{}]}', "'B00000': instruction=None is no text"),
        ("reviews", '["x"]', "entry 0 is not of the form"),
    ],
)
def test_a_file_of_another_form_is_named(folder: Path, stem: str, content: str, message: str):
    (path,) = folder.glob(f"{stem}*.json")
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        opened(folder)
    assert_one_line(error)


def test_a_missing_file_is_named(folder: Path):
    (folder / "items_human_ins.json").unlink()
    with pytest.raises(ValueError, match=r"the file of the human is missing.*items_human_ins"):
        opened(folder)


def test_two_product_files_must_be_told_apart(folder: Path):
    (folder / "items_shuffle.json").write_text("[]")
    with pytest.raises(ValueError, match="holds several files of the products"):
        opened(folder)


def test_files_may_be_named_one_by_one(folder: Path):
    named = {
        "products": str(folder / "items_shuffle_40.json"),
        "annotations": str(folder / "items_ins_v2_40.json"),
        "human": str(folder / "items_human_ins.json"),
    }
    env = WebShopEnv(data=named, split_sizes=(5, 5))
    assert len(env.tasks("valid_seen")) == 5
    with pytest.raises(ValueError, match=r"data\['product'\].*Did you mean 'products'"):
        WebShopEnv(data={"product": "x"}).tasks("train")


def test_a_catalogue_without_goals_is_refused(folder: Path):
    change(folder, "items_ins_v2", lambda rows: rows.clear())
    with pytest.raises(ValueError, match="none of its products has a synthetic instruction"):
        opened(folder)
    with pytest.raises(ValueError, match="none of its products has a human instruction"):
        opened(folder, goals="human")


def test_too_few_goals_for_the_splits_are_refused(folder: Path):
    with pytest.raises(ValueError, match=r"split_sizes=\[500, 1000\]: the files give only"):
        WebShopEnv(data=folder).tasks("train")


def test_a_product_without_a_price_costs_a_hundred_dollars(folder: Path):
    change(folder, "items_shuffle", lambda rows: [row.pop("pricing") for row in rows])
    env = opened(folder)
    env.reset(seed=0)
    observation = env.step(f"<action>search[{env.goal.name}]</action>")[0]
    assert "$100.0" in observation


def test_a_price_that_is_none_is_refused(folder: Path):
    for pricing in ("cheap", 12.5, ["$1.00"], "$1.2.3", "$" + "9" * 400):
        change(folder, "items_shuffle", lambda rows, new=pricing: rows[3].update(pricing=new))
        with pytest.raises(ValueError, match=r"entry 3: pricing=.* is no price") as error:
            opened(folder)
        assert_one_line(error)


def test_options_of_another_form_are_refused(folder: Path):
    change(folder, "items_shuffle", lambda rows: rows[2].update(customization_options=["red"]))
    with pytest.raises(ValueError, match=r"entry 2: customization_options=.*are not of the form"):
        opened(folder)


def test_an_instruction_without_attributes_is_refused(folder: Path):
    def strip(rows: dict) -> None:
        next(iter(rows.values()))["instruction_attributes"] = []

    change(folder, "items_ins_v2", strip)
    with pytest.raises(ValueError, match="no instruction_attributes"):
        opened(folder)


def test_options_that_come_out_alike_stay_in_one_split(folder: Path):
    def collide(rows: list) -> None:
        for row in rows:
            row["customization_options"] = {
                "color": [{"value": value} for value in ("Red", "red ", "RED")]
            }

    change(folder, "items_shuffle", collide)
    tasks = tasks_of(folder, split_sizes=(20, 20))
    said = [texts(tasks, split) for split in SPLITS]
    assert not said[0] & said[1] and not said[0] & said[2] and not said[1] & said[2]
    env = WebShopEnv(data=folder, split_sizes=(20, 20), think="off")
    assert env.reset(options={"task": env.tasks("train")[0]})[1]["solvable"]


def test_repeated_and_overlong_identifiers_are_left_out(folder: Path):
    change(folder, "items_shuffle", lambda rows: rows.append({**rows[0], "asin": "B" * 11}))
    change(folder, "items_shuffle", lambda rows: rows.append(rows[0]))
    assert len(read_products(find_files(folder))) == 40


def test_a_shop_on_disk_is_the_shop_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("tantivy", reason="large catalogues need the extra `search`")
    in_memory = opened(folder)
    names = in_memory.tasks("train")
    goals = [in_memory._source.task(name).goal for name in names]
    monkeypatch.setattr("stepopsd_envs.webshop.tasks.IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("stepopsd_envs.webshop.official._PIECE_BYTES", 1000)
    change(folder, "items_human_ins", lambda rows: None)  # another state, so that nothing is cached
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    on_disk = opened(elsewhere)
    assert type(on_disk._source.task(names[0]).shop).__name__ == "DiskShop"
    assert on_disk.tasks("train") == names
    assert [on_disk._source.task(name).goal for name in names] == goals
    wins = 0
    for name in names[:50]:
        info = on_disk.reset(options={"task": name})[1]
        wins += info["solvable"]
    assert wins == 50
    (path,) = elsewhere.glob("items_shuffle*.json")
    assert (elsewhere / f"{path.name}.shop").is_dir()
    path.write_text(path.read_text()[:-50])
    with pytest.raises(ValueError, match="cannot be read: the file ends within it"):
        list(stream_rows(path))
