"""What an editor says by config.schema.json is what the program says: keys with a slip are refused,
keys of one's own are not, and what another config has may be left out."""

import json
import re

import pytest

from machinery.config.checking import check
from machinery.config.source import Source
from machinery.errors import ConfigError
from projects import ROOT

SCHEMA = json.loads((ROOT / "config.schema.json").read_text())
WHOLE = {"name": "a", "trainer": {"epochs": 2, "save_dir": "saved"}}
SECTIONS = {
    "": SCHEMA,
    "trainer": SCHEMA["$defs"]["TrainerSettings"],
    "arch": SCHEMA["$defs"]["Arch"],
}


def editor_refuses(section, key):
    patterns = SECTIONS[section]["patternProperties"]
    return any(re.search(pattern, key) for pattern in patterns)


def program_refuses(section, key, right=""):
    """Whether a config with a key is refused, without the right key for it."""
    config = json.loads(json.dumps(WHOLE))
    place = config.setdefault(section, {}) if section else config
    place.pop(right, None)
    place[key] = {}
    try:
        check(Source.of(config))
    except ConfigError as error:
        return "did you mean" in str(error)
    return False


def slips(key):
    for i in range(len(key)):
        yield key[:i] + key[i + 1 :]
        yield key[:i] + "x" + key[i + 1 :]
        yield key[:i] + "x" + key[i:]
        yield key[:i] + key[i : i + 2][::-1] + key[i + 2 :]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_slip_is_one_for_both(section):
    keys = SECTIONS[section]["properties"]
    assert len(keys) > 4
    seen = 0
    for key in keys:
        for slip in set(slips(key)) - keys.keys():
            if len(key) >= 4:
                assert editor_refuses(section, slip) == program_refuses(section, slip, key), slip
                seen += editor_refuses(section, slip)
            else:
                assert not editor_refuses(section, slip), slip
    assert seen > 20 * len(keys) / 2


@pytest.mark.parametrize("section", SECTIONS)
def test_keys_of_ones_own_are_for_both(section):
    own = ["mine", "n_classes", "vocabulary", "note"]
    if not section:
        own += ["arch2", "optimizer_D", "data_loader_2", "my_loss", "comment"]
    for key in [*own, *SECTIONS[section]["properties"]]:
        assert not editor_refuses(section, key), key
    for key in own:
        assert not program_refuses(section, key), key


def test_what_a_base_has_may_be_left_out():
    assert SCHEMA["anyOf"] == [{"required": ["base"]}, {"required": ["name", "trainer"]}]
    assert "base" in SCHEMA["properties"] and "required" not in SCHEMA
