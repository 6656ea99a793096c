"""YAML that a few characters blow up, or that goes too deep, ends in a sentence at once."""

import time

import pytest

from d2_hloc.core import config
from d2_hloc.core.yaml_file import YamlError, read_yaml
from d2_hloc.matching.options import MatchingOptions

BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{{', '.join(f'{name}{k}: *{before}' for k in range(9))}}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "conf.yaml"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BOMB, "holds more than 10000 values"),
        (MERGED, "holds more than 10000 values"),
        ("mutual: " + "[" * 2000 + "]" * 2000, "is nested deeper than 32 levels"),
        ("{a: " * 2000 + "1" + "}" * 2000, "is nested deeper than 32 levels"),
        ("- " * 3000 + "1", "is nested deeper than 32 levels"),
        ("a: &a [*a]", "a value holds itself"),
        ("&a ? *a : 1", "is not valid YAML"),
        ("x: " + "y" * (1 << 20), "has 1048579 characters, and options at most"),
        ("x: " + "9" * 10_000, "holds a value that cannot be read"),
        ("x: 2001-99-99", "holds a value that cannot be read"),
        ("x: !!bool maybe", "holds a value that cannot be read"),
        ("x: !!timestamp never", "holds a value that cannot be read"),
        ("x: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("x: 1\nx: 2", "the key 'x' stands there twice"),
        ("? [a]\n: 1", "is not valid YAML"),
    ],
)
def test_what_is_more_than_options_can_be_is_named_at_once(path, text, sentence):
    path.write_text(text)
    begun = time.monotonic()
    with pytest.raises(YamlError, match=sentence) as error:
        read_yaml(path)
    assert time.monotonic() - begun < 2
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    with pytest.raises(config.ConfigError, match=sentence):
        config.load(MatchingOptions, path)


def test_aliases_within_reason_stand_for_their_values(path):
    path.write_text("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\n")
    assert read_yaml(path)["c"] == {"x": [1, 2], "y": 3}


@pytest.mark.parametrize(
    "text",
    [
        f"{{mutual: {['x' * 50] * 50}}}",
        f"{{ratio_threshold: {'y' * 3000}}}",
        f"{{{'z' * 3000}: 1}}",
        f"[{', '.join(map(str, range(5000)))}]",
    ],
)
def test_an_error_repeats_no_more_of_a_value_than_a_line(path, text):
    path.write_text(text)
    with pytest.raises(config.ConfigError) as error:
        config.load(MatchingOptions, path)
    assert len(str(error.value)) < len(str(path)) + 400


@pytest.mark.parametrize("number", [".nan", "1" + "0" * 400])
def test_a_number_that_is_none_is_refused(path, number):
    path.write_text(f"ratio_threshold: {number}")
    with pytest.raises(config.ConfigError, match="ratio_threshold"):
        config.load(MatchingOptions, path)
