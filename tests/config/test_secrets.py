"""A password reaches the object that needs it, and no record: `${NAME}`, and known forms."""

import json
import sys
from urllib.parse import quote, quote_plus

import pytest

import tiny
from machinery import secrets
from machinery.checkpoints import file as checkpoint
from machinery.checkpoints.judging import judge_anew
from machinery.config import trust
from machinery.errors import ConfigError
from machinery.telling import end_command, told
from machinery.update.watching import Monitor

SECRET = "geheim/42"


@pytest.fixture(autouse=True)
def nothing_taken(monkeypatch, tmp_path):
    """What the tests take is of no other test, nor are the configs of this project's folder."""
    monkeypatch.setattr(secrets, "_taken", {})
    monkeypatch.setattr(trust, "ROOT", tmp_path)
    monkeypatch.setenv("TINY_KEY", SECRET)


class Keyed(tiny.TinyModel):
    """A model that wants a key, and is careless with it."""

    def __init__(self, key, more=(), **options):
        super().__init__(**options)
        self.key, self.more = key, more


class Careless(tiny.Trainer):
    def _train_epoch(self, epoch):
        self.logger.warning(f"the key is {self.model.key}")
        self.writer.add_text("model", "a model")
        return super()._train_epoch(epoch)


@pytest.fixture
def keyed(monkeypatch):
    monkeypatch.setattr(tiny, "Keyed", Keyed, raising=False)


def with_key(tmp_path, key="${TINY_KEY}", **changes):
    return tiny.settings(
        tmp_path, arch__type="Keyed", arch__args={"key": key}, trainer__verbosity=1, **changes
    )


def records(folder):
    """What all files of a folder hold."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_the_value_reaches_the_object_and_no_record(tmp_path, keyed, capfd):
    config = with_key(tmp_path, trainer__tensorboard=True, trainer__epochs=1)
    config["arch"]["args"]["more"] = [{"url": "http://me:${TINY_KEY}@there"}, "$${TINY_KEY}"]
    sys.argv = ["train.py", "--set", f"arch.args.key={SECRET}"]
    trainer = tiny.train(config, trainer_class=Careless)
    assert trainer.model.key == SECRET
    assert trainer.model.more == [{"url": f"http://me:{SECRET}@there"}, "${TINY_KEY}"]
    kept = records(tmp_path)
    assert SECRET.encode() not in kept and b"${TINY_KEY}" in kept
    assert b"the key is ${TINY_KEY}" in kept
    state = checkpoint.load(trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    assert state["config"] == config and SECRET not in "".join(capfd.readouterr())


def test_an_error_does_not_tell_it(tmp_path, keyed, monkeypatch, capfd):
    class Telling(Careless):
        def _train_epoch(self, epoch):
            raise ValueError(f"the key is {self.model.key}")

    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(ValueError, match="the key is") as caught:
        tiny.train(with_key(tmp_path), trainer_class=Telling)
    end_command(caught.type, caught.value, caught.tb)
    told = capfd.readouterr().err
    assert "the key is ${TINY_KEY}" in told and SECRET not in told
    assert SECRET.encode() not in records(tmp_path)


def test_a_constructor_that_raises_does_not_tell_it(tmp_path, monkeypatch):
    class Refusing(Keyed):
        def __init__(self, key):
            raise ValueError(f"no access for {key}")

    monkeypatch.setattr(tiny, "Keyed", Refusing, raising=False)
    with pytest.raises(ConfigError, match=r"no access for \$\{TINY_KEY\}"):
        tiny.build(with_key(tmp_path))


def test_a_name_that_is_not_set_is_an_error_with_its_place(tmp_path, keyed, monkeypatch):
    monkeypatch.delenv("TINY_KEY")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(with_key(tmp_path), indent=4))
    told = r"mine.json:7:13: arch.args.key: TINY_KEY is not set in the environment"
    with pytest.raises(ConfigError, match=told):
        tiny.command_line("-c", path)
    with pytest.raises(ConfigError, match="TINY_KEY is not set"):
        tiny.build(with_key(tmp_path))


@pytest.mark.parametrize(
    "change", [{"name": "${TINY_KEY}"}, {"loss": "${TINY_KEY}"}, {"metrics": ["${TINY_KEY}"]}]
)
def test_only_arguments_take_values(tmp_path, change):
    with pytest.raises(ConfigError, match="only args take values of the environment"):
        tiny.ConfigParser(tiny.settings(tmp_path, **change))
    with pytest.raises(ConfigError, match=r"trainer\.save_dir: only args take values"):
        tiny.ConfigParser(tiny.settings("${TINY_KEY}"))


FORMS = {
    "key": ("postgresql://me:s3cr3t@there/db", "postgresql://me:***@there/db"),
    "password": ("s3cr3t", "***"),
    "wandb_api_key": ("s3cr3t", "***"),
    "auth_token": ("s3cr3t", "***"),
    "link": ("http://there?a=1&token=s3cr3t&b=2", "http://there?a=1&token=***&b=2"),
}
#: What only looks like a secret.
PLAIN = {
    "pad_token": "<pad>",
    "tokens": "bpe",
    "secret": "${TINY_KEY}",
    "uri": "http://me:${TINY_KEY}@there:80/a@b",
    "password": "",
    "stars": "***",
}


@pytest.mark.parametrize("key", FORMS)
def test_known_forms_are_masked_in_records(key):
    value, shown = FORMS[key]
    config = {"data_loader": {"args": {"a": [{key: value}], **PLAIN}}}
    expected = {"data_loader": {"args": {"a": [{key: shown}], **PLAIN}}}
    assert secrets.masked(config) == expected == secrets.masked(expected)
    words = ["train.py", "--set", f"a.{key}={value}", "--set", f"a={json.dumps({key: value})}"]
    assert "s3cr3t" not in "".join(secrets.masked_words([*words, f"--{key}", value]))


def test_a_masked_secret_is_hinted_at_and_asked_for(tmp_path, keyed, capfd, monkeypatch):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(with_key(tmp_path, "http://me:s3cr3t@there", trainer__epochs=1)))
    run = tiny.train(tiny.command_line("-c", path, "--set", "arch.args.key=http://me:s3cr3t@there"))
    told = capfd.readouterr().out
    assert "arch.args.key: records show *** for the secret in it, and -r will ask for it" in told
    assert b"s3cr3t" not in records(run.checkpoint_dir) + records(run.config.log_dir)
    asked = r"arch.args.key: its secret is kept in no record: give it again: --set 'arch.args.key=…"
    words = ["-r", run.checkpoint_dir, "--set", "trainer.epochs=2"]
    (tmp_path / "mine.json").rename(tmp_path / "mine.txt")
    with pytest.raises(Exception, match=r"http://me:\*\*\*@there is an address.*--set"):
        tiny.command_line(*words)
    with pytest.raises(ConfigError, match=asked):
        tiny.command_line(*words, "--set", "arch.args.key=http://me:***@there")
    again = tiny.command_line(*words, "--set", "arch.args.key=http://me:s3cr3t@there")
    assert tiny.train(again).model.key == "http://me:s3cr3t@there"
    assert "s3cr3t" not in "".join(capfd.readouterr())


def test_a_secret_that_is_given_again_changes_no_data():
    url = "http://me:{}@there"
    loaders = [{"args": {"url": url.format(word)}} for word in ("***", "new")]
    before, now = ({"valid_data_loader": loader} for loader in loaders)
    parts = {"monitor": Monitor("min val_loss", None)}
    parts["monitor"].update(1, {"val_loss": 2.0})
    judge_anew(parts, before, now, ("a", "a"))
    assert parts["monitor"].best_epoch == 1
    other = {"valid_data_loader": {"args": {"url": "http://elsewhere"}}}
    judge_anew(parts, before, other, ("a", "a"))
    assert parts["monitor"].best_epoch == 0


def test_short_values_are_no_parts_of_other_words(monkeypatch):
    monkeypatch.setenv("SHORT", "data")
    monkeypatch.setenv("LETTER", "a")
    assert secrets.filled("${SHORT} ${LETTER}") == "data a"
    assert secrets.hidden("a data_loader of data") == "a data_loader of ${SHORT}"


#: A command line, and what a record shows of it.
WORDS = {
    "--set=arch.args.password=s3cr3t": "--set=arch.args.password=***",
    "arch.args.api_key.0=s3cr3t": "arch.args.api_key.0=***",
    'arch={"password": ["s3cr3t"]}': 'arch={"password": ["***"]}',
    'arch={"password": "a\\"s3cr3t"}': 'arch={"password": "***"}',
    'arch={"password": "it\'s s3cr3t"}': 'arch={"password": "***"}',
    'arch={"password": 123}': 'arch={"password": "***"}',
    'arch={"token": 123, "a": [1.50]}': 'arch={"token": 123, "a": [1.50]}',
    "http://there/#token=s3cr3t": "http://there/#token=***",
    "arch.args.a=b=c": "arch.args.a=b=c",
}


@pytest.mark.parametrize("word", WORDS)
def test_no_word_of_a_command_line_shows_it(word):
    assert secrets.masked_words(["train.py", word]) == ["train.py", WORDS[word]]


HIDDEN_KEYS = ("hf_token", "aws_secret_access_key", "secret_key", "private_key", "passphrase")


@pytest.mark.parametrize("key", HIDDEN_KEYS)
def test_more_keys_of_secrets(key):
    assert secrets.masked({key: "s3cr3t"}) == {key: "***"}


def test_secrets_in_lists_in_keys_and_in_numbers_are_masked_and_asked_for(tmp_path, keyed):
    given = {"password": ["s3cr3t"], "api_key": 17, "token": 17, "postgres://me:s3cr3t@there": 1}
    shown = {"password": ["***"], "api_key": "***", "token": 17, "postgres://me:***@there": 1}
    assert secrets.masked(given) == shown
    run = tiny.train(with_key(tmp_path, given, trainer__epochs=1))
    assert run.model.key == given
    assert b"s3cr3t" not in records(run.checkpoint_dir) + records(run.config.log_dir)
    with pytest.raises(ConfigError) as caught:
        tiny.build(with_key(tmp_path, shown))
    for name in ("key.password.0", "key.api_key", "key.postgres://me:***@there"):
        assert f"arch.args.{name}: its secret is kept in no record" in str(caught.value)


def test_an_error_does_not_tell_one_that_is_written_out(tmp_path, monkeypatch, capfd):
    class Telling(tiny.Trainer):
        def _train_epoch(self, epoch):
            raise ValueError(f"no access with {self.model.password}")

    class Locked(tiny.TinyModel):
        def __init__(self, password):
            super().__init__()
            self.password = password

    monkeypatch.setattr(tiny, "Locked", Locked, raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    args = {"password": "geheim4711"}
    config = tiny.settings(tmp_path, arch__type="Locked", arch__args=args)
    with pytest.raises(ValueError, match="no access") as caught:
        tiny.train(config, trainer_class=Telling)
    end_command(caught.type, caught.value, caught.tb)
    assert "no access with ***" in capfd.readouterr().err
    assert b"geheim4711" not in records(tmp_path)


@pytest.mark.parametrize("value", ["BEGIN\ngeheim4711\nEND\n", "q" * 250 + "geheim4711" * 9])
def test_nothing_is_left_of_one_that_a_message_cuts(monkeypatch, value):
    monkeypatch.setenv("TINY_KEY", value)
    assert told(ValueError(f"no access with {secrets.filled('${TINY_KEY}')}")) == (
        "ValueError: no access with ${TINY_KEY}"
    )


@pytest.mark.parametrize("written", [quote, quote_plus, str.strip])
def test_other_ways_to_write_a_value_are_hidden(monkeypatch, written):
    monkeypatch.setenv("TINY_KEY", " geheim 47/11 ")
    value = secrets.filled("${TINY_KEY}")
    assert secrets.hidden(f"<{written(value)}>") == "<${TINY_KEY}>"
