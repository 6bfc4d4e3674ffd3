"""YAML as people have it: read, or refused in one line with the name of the file."""

import random
from pathlib import Path

import pytest
import yaml

from stepopsd_rllib.commands import tuned, yaml_files

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.glob("tuned_examples/**/*.yaml"))


@pytest.mark.parametrize("text", ["1e-6", "1E6", "-1e3", "+2.5e-7", ".5e1", "1.e3", "1e+2", "3e22"])
def test_a_number_with_an_exponent_is_a_number(text):
    assert yaml_files.parse(f"lr: {text}", "f")["lr"] == float(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e", "1e"),
        ("e6", "e6"),
        ("1e-6x", "1e-6x"),
        ('"1e-6"', "1e-6"),
        ("off", False),
        ("~", None),
    ],
)
def test_what_is_no_number_stays_what_it_was(text, value):
    assert yaml_files.parse(f"key: {text}", "f")["key"] == value


def test_anchors_and_merge_keys_work_and_may_be_written_over():
    text = (
        "base: &base {lr: 1.0e-4, size: tiny}\n"
        "other: &other {<<: *base, lr: 2.0e-4}\n"
        "third: {<<: [*other, *base], size: small}\n"
    )
    document = yaml_files.parse(text, "f")
    assert document == yaml.safe_load(text)
    assert document["third"] == {"lr": 2.0e-4, "size": "small"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_example_reads_as_with_the_loader_of_rllib(path):
    assert yaml_files.read(path, str(path)) == yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\na: 2\n", r"a is written twice \(line 2\)"),
        (b"a: {b: 1, 'b': 2}\n", r"b is written twice \(line 1\)"),
        (b"# caf\xe9\na: 1\n", r"is not UTF-8 \(byte 6\)\. Save it as UTF-8\."),
        (b"a: \x00", r"is not valid YAML: "),
        (b"a: &x [*x]\n", r"an alias stands inside of what it names"),
        (b"[" * 5000, r"nested too deeply"),
        (b"a: 2026-13-45\n", r"a value is damaged"),
        (b"a: !!int abc\n", r"a value is damaged"),
        (b"a: !!timestamp abc\n", r"a value is damaged"),
        (b"a: !!python/object/apply:os.system [ls]\n", r"could not determine a constructor"),
        (b"a: 1\n---\nb: 2\n", r"expected a single document"),
        (b"? [a]\n: 1\n", r"unhashable key"),
        (b"x" * (yaml_files.MAX_BYTES + 1), r"too many for a tuned example"),
    ],
)
def test_a_damaged_file_is_one_line_with_its_name(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refusal:
        yaml_files.read(path, "mine.yaml")
    assert str(refusal.value).startswith("mine.yaml: ")
    assert "\n" not in str(refusal.value)


def test_aliases_that_stand_for_billions_of_values_are_refused_at_once():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ValueError, match="its aliases stand for more than"):
        yaml_files.parse("\n".join(lines), "f")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path, encoding):
    path = tmp_path / "mine.yaml"
    path.write_text("mine: {run: GRPO}\n", encoding=encoding)
    assert yaml_files.read(path, "f") == {"mine": {"run": "GRPO"}}


def test_500_damaged_examples_are_read_or_refused_in_one_line(tmp_path):
    """Bytes flipped, cut out, doubled and swapped in real files, seeded."""
    source = random.Random(7)
    contents = [path.read_bytes() for path in EXAMPLES]
    pieces = [b"\x00", b"\xff", b"\t", b"&a", b"*a", b"<<", b": ", b"- ", b"{", b"]", b"!!", b"'"]
    path = tmp_path / "damaged.yaml"
    refused = 0
    for _ in range(500):
        content = bytearray(source.choice(contents))
        for _ in range(source.randint(1, 8)):
            at = source.randrange(len(content))
            match source.randrange(4):
                case 0:
                    content[at] = source.randrange(256)
                case 1:
                    del content[at : at + source.randint(1, 40)]
                case 2:
                    content[at:at] = source.choice(pieces)
                case _:
                    content[at:at] = content[at : at + source.randint(1, 60)]
        path.write_bytes(bytes(content))
        try:
            tuned.read(path)
        except ValueError as refusal:
            refused += 1
            assert str(refusal).startswith(str(path))
            assert "\n" not in str(refusal)
    assert 100 < refused < 500  # the damage reaches the reader, and is not always fatal
