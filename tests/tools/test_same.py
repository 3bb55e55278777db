"""tools/same.py: where two runs, or two commits, first differ."""

import shutil
import subprocess

import torchvision.datasets  # noqa: F401

from machinery.checkpoints import file as checkpoint
from machinery.files import read_json, write_json
from projects import OWN, SHARED, copy_template, quick
from scripts import run


def test_a_run_is_itself_and_one_bit_is_found(trained, tmp_path):
    models = tmp_path / "models" / "Digits_LeNet"
    logs = tmp_path / "log" / "Digits_LeNet"
    for name in ("one", "two"):
        shutil.copytree(trained / "models" / "Digits_LeNet" / "a", models / name)
        shutil.copytree(trained / "log" / "Digits_LeNet" / "a", logs / name)
    one, two = (models / name for name in ("one", "two"))
    assert "the same to the bit" in run(tmp_path, "tools/same.py", one, two)
    # The last bit of one weight, and one number of an epoch.
    file = two / "checkpoint-epoch2.pth"
    content = checkpoint.load(file)
    weight = content["state_dict"]["fc1.weight"].view(-1)
    weight[3] = weight[3].nextafter(weight[3] + 1)
    checkpoint.save(content, file)
    told = run(tmp_path, "tools/same.py", one, two, code=1)
    assert told.startswith("checkpoint-epoch2.pth: weight fc1.weight: 1 of ")
    files = (one / file.name, file)
    assert run(tmp_path, "tools/same.py", *files, code=1).startswith("weight fc1.weight: 1 of ")
    assert "the same" in run(tmp_path, "tools/same.py", files[0], files[0])
    table = logs / "two" / "metrics.csv"
    head, first, second = table.read_text().splitlines()
    place = head.split(",").index("val_loss")
    words = second.split(",")
    words[place] = "0.125"
    table.write_text("\n".join([head, first, ",".join(words)]) + "\n")
    config = read_json(two / "config.json")
    config["seed"] = 5
    write_json(config, two / "config.json")
    told = run(tmp_path, "tools/same.py", one, two, code=1).splitlines()
    assert told[0] == "setting seed: 123 | 5"
    assert told[1].startswith("epoch 2, val_loss: ") and told[1].endswith(" | 0.125")
    assert told[2].startswith("checkpoint-epoch2.pth")
    empty = trained / "models" / "Digits_LeNet" / "empty"
    assert "no epoch" in run(tmp_path, "tools/same.py", empty, empty, code=2)
    away = shutil.copytree(one, tmp_path / "away")
    told = run(tmp_path, "tools/same.py", one, away, code=2)
    assert "away is not the folder of a run (models/NAME/RUN with" in told
    assert "move it to one" in told
    home = shutil.copytree(away, tmp_path / "models" / "N" / "away")
    assert "the same to the bit" in run(tmp_path, "tools/same.py", one, home)
    run(tmp_path, "tools/same.py", one, code=2)
    run(tmp_path, "tools/same.py", one, two, "--updates", "0", code=2)
    run(tmp_path, "tools/same.py", "-c", "config.json", "no-such-commit", ".", code=2)
    run(tmp_path, "tools/same.py", "-c", "config.json", one / "config.json", ".", code=2)


def test_what_a_change_of_the_code_changes_first_is_found(tmp_path):
    project = copy_template(tmp_path / "project", (*SHARED, *OWN, "tools"))
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    (project / ".gitignore").write_text("saved\n*.jsonl\n")
    for words in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-q", "-m", "all")):
        subprocess.run(["git", *words], cwd=project, check=True)
    same = ("tools/same.py", "-c", "config.json", "--updates", "2", "--set", "n_gpu=0")
    kept = quick(project, *same, "--record", "before.jsonl")
    assert kept.returncode == 0 and "2 updates" in kept.stdout, kept.stderr
    loss = project / "model" / "loss.py"
    text = loss.read_text()
    assert "return F.nll_loss(output, target)" in text
    loss.write_text(text.replace("return F.nll_loss(output", "return 1.0001 * F.nll_loss(output"))
    found = quick(project, *same, "before.jsonl", ".")
    assert found.returncode == 1 and found.stdout.startswith("update 1, loss: "), found.stderr
    found = quick(project, *same, "before.jsonl", "HEAD")
    assert found.returncode == 0 and "2 updates: " in found.stdout, found.stdout + found.stderr
    assert not (project / "saved").exists()
