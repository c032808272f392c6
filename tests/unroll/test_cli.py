from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import interpreters
import pytest
from small_trainings import environment

import svdinv
from svdinv._missing import command as install
from svdinv.cli import main
from svdinv.cli.arguments import check_network
from svdinv.unroll import pretrained
from svdinv.unroll.data import photograph
from svdinv.unroll.display.pictures import save_picture
from svdinv.unroll.networks import Skip
from svdinv.unroll.tasks.cine.task import Cine
from svdinv.unroll.tasks.registry import entries

COMMANDS = ["data", "demo", "evaluate", "fit", "info", "reconstruct", "train"]
KINDS = ["colour", "cine", "ct", "eit", "pet", "spectral-ct"]


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_lists_the_commands(words, capsys):
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert [c for c in COMMANDS if not re.search(rf"^ +{c} +\w", shown, re.M)] == []


def test_every_command_has_help(capsys):
    for words in (*COMMANDS, "data inspect", "data list", "data show", "data write"):
        assert main([*words.split(), "--help"]) == 0
        assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    "example", ["evaluate colour", "fit coffee", "reconstruct coffee"]
)
def test_help_has_examples(example, capsys):
    assert main([example.partition(" ")[0], "--help"]) == 0
    assert f"examples:\n  svdinv {example}" in capsys.readouterr().out


def test_weights_along_time_serve_any_number_of_frames():
    network = Namespace(task="cine", recipe=Skip(images="series", along_time=True))
    given = Namespace(y=range(8))
    check_network(network, Cine(), "series", given)
    network.recipe = Skip(images="series")
    with pytest.raises(ValueError, match="images with 3 frames, but series has 8"):
        check_network(network, Cine(), "series", given)


def test_weights_for_several_channels_are_refused_for_fewer(one_line, tmp_path):
    less = ["--size", "24", "--views", "8", "--bins", "3", "--output", str(tmp_path)]
    image = "spectral:walnut-1"
    for words in (
        ["evaluate", "spectral-ct", "--images", image],
        ["reconstruct", image, "--weights", str(pretrained.path("spectral-ct"))],
    ):
        assert main([*words, *less]) == 2
        assert "these are for 4 channels or more" in one_line()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("command", "several"), [("reconstruct", False), ("evaluate", True)]
)
def test_help_of_a_task_has_its_options_alone(command, several, kind, capsys):
    assert main([command, kind, "--help"]) == 0
    told = capsys.readouterr().out
    assert " ".join(told.split()).count("; must ") >= 3  # the ranges
    shown = re.findall(r"^  --([\w-]+)", told, re.M)
    expected = [
        (entry.metadata["plural"] if several else None) or entry.name
        for entry in dataclasses.fields(entries()[kind].load().options)
        if entry.name != "seed"
    ]
    assert shown == [name.replace("_", "-") for name in expected]


@pytest.mark.parametrize("command", ["reconstruct", "fit", "evaluate"])
def test_help_is_short_and_names_the_tasks(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") <= 45
    assert f"svdinv {command} TASK --help lists them:  {'  '.join(KINDS)}" in shown
    assert "\n  --coils" not in shown


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--output", ""],
        ["train", "colour", "--output", ""],
        ["train", "--resume", ""],
        ["train", "colour", "--output", "x", "--weights", ""],
        ["reconstruct", "coffee", "--output", " "],
        ["reconstruct", "coffee", "--weights", ""],
        ["reconstruct", ""],
        ["evaluate", "colour", "--output", ""],
        ["evaluate", ""],
        ["evaluate", "colour", "--images", ""],
        ["data", "write", "coffee", "--output", ""],
        ["data", "write", "", "--output", "a.h5"],
        ["data", "inspect", ""],
    ],
)
def test_empty_paths_are_refused(words, one_line, tmp_path, monkeypatch):
    """As of a variable of the shell that is not set; nothing is written anywhere."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert "must not be empty" in one_line()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_without_arguments(command, one_line, monkeypatch):
    """They begin, if they can do without any, or say in one line what is missing."""
    module = importlib.import_module(f"svdinv.cli.{command}")
    if command in ("demo", "evaluate", "info"):
        monkeypatch.setattr(module, "run", lambda arguments: 0)
        assert main([command]) == 0
        return
    assert main([command]) == 2
    missing = {"train": "what to train?", "data": "list, show, inspect or write"}
    assert missing.get(command, "required: INPUT") in one_line()


@pytest.mark.parametrize("command", ["reconstruct", "fit", "evaluate"])
def test_help_of_a_task_that_is_misspelt(command, capsys):
    assert main([command, "kine", "--help"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"svdinv {command}: there is no task kine; did you mean cine?\n"
        f"  tasks: {', '.join(KINDS)}\n"
    )
    for known in ("coffee", "colour-groups", __file__):
        assert main([command, known, "--help"]) == 0
        assert f"svdinv {command} TASK --help" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("camera", "there is no file camera, and no built-in image of that name\n"),
        ("coffe", "did you mean coffee?\n  'svdinv data list' lists the names\n"),
        ("scan.xyz", "cannot read scan.xyz; svdinv reads:\n  a picture (.bmp, "),
    ],
)
def test_what_is_no_image(name, said, capsys):
    assert main(["reconstruct", name]) == 2
    found = capsys.readouterr().err
    assert said in found
    assert max(map(len, found.splitlines())) < 180


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"svdinv {svdinv.__version__}"


def test_nothing_heavy_is_imported_for_help_and_for_a_configuration():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['svdinv', '--help']\n"
        "try:\n    runpy.run_module('svdinv', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "from svdinv.cli import main\n"
        "assert main(['train', 'colour', '--print']) == 0\n"
        "heavy = {'torch', 'skimage', 'sklearn', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = interpreters.run("-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"
    assert "demo" in done.stdout


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rate", "0"),
        ("--rate", "1"),
        ("--rate", "nan"),
        ("--rate", "much"),
        ("--seed", "-1"),
        ("--seed", "1.5"),
        ("--steps", "-1"),
        ("--minutes", "0"),
        ("--minutes", "inf"),
        ("--threads", "0"),
        ("--photo", "no-such-picture.png"),
        ("--photo", __file__),
        ("--output", f"{__file__}/below-a-file"),
    ],
)
def test_bad_arguments_end_in_one_line_that_names_them(option, value, one_line):
    assert main(["demo", option, value]) == 2
    assert option in one_line()


def test_names_that_are_no_text(small_methods, tmp_path, capsys):
    """Such as those of another encoding, which tables and pictures cannot hold."""
    path = os.fsdecode(os.fsencode(tmp_path / "lat") + b"\xef.png")
    save_picture(path, photograph("coffee")[:40, :40])
    words = ["--no-baselines", "--crop", "32", "--output", str(tmp_path / "new")]
    assert main(["reconstruct", path, *words]) == 0
    assert (tmp_path / "new/lat-udcef-network.png").exists()
    evaluate = ["evaluate", "colour", "--images", path, "--rates", "0.4"]
    assert main([*evaluate, "--no-ensemble", *words]) == 0
    assert "lat\\udcef" in (tmp_path / "new/results.csv").read_text()
    output = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    with contextlib.redirect_stdout(output):
        assert main(["reconstruct", path, *words[1:], "--baselines"]) == 0


def test_unknown_options_and_commands(capsys):
    assert main(["demo", "--colour"]) == 2
    assert "--colour" in capsys.readouterr().err
    assert main(["paint"]) == 2
    assert "paint" in capsys.readouterr().err
    assert main(["reconstruct", "coffee", "--rte", "0.1"]) == 2
    assert "--rte 0.1; did you mean --rate?" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_cure(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        "svdinv.cli.arguments.find_spec",
        lambda name: None if name == "torch" else object(),
    )
    for command, extra in ((["demo"], "demo"), (["train", "colour"], "train")):
        assert main([*command, "--output", str(tmp_path / "new")]) == 2
        complaint = capsys.readouterr().err
        assert "torch" in complaint
        assert f"not installed here: {install(extra)}" in complaint
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["reconstruct", "fit", "evaluate"])
def test_commands_of_tasks_without_numpy(monkeypatch, capsys, command):
    monkeypatch.setattr("svdinv.cli.arguments.find_spec", lambda name: None)
    assert main([command, "chelsea", "--rate", "0.3"]) == 2
    said = capsys.readouterr().err
    assert (
        said
        == f"svdinv {command}: needs numpy, not installed here: {install('train')}\n"
    )
    assert main([command, "--help"]) == 0


def test_info_without_what_reads_weights(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "kernels" in said
    assert said.count("cannot be read: svdinv needs safetensors") == 1


def test_ctrl_c_and_a_full_disk_are_no_tracebacks(monkeypatch, capsys, tmp_path):
    import svdinv.unroll.demo as demo

    def press(*arguments):
        raise KeyboardInterrupt

    def fail(*arguments):
        raise OSError("disk full")

    for run, code, word in ((press, 130, "interrupted"), (fail, 2, "disk full")):
        monkeypatch.setattr(demo, "run", run)
        assert main(["demo", "--output", str(tmp_path)]) == code
        assert word in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file of Linux")
def test_output_that_cannot_be_written_is_one_line():
    """Buffered, it shows only as the program ends."""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "svdinv", "train", "colour", "--print"],
            env=environment(PYTHONUNBUFFERED=""),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "No space left on device" in ended.stderr


WRITING = "reconstruct coffee --crop 32 --no-baselines --output"


@pytest.mark.skipif(os.name != "posix", reason="by a shell")
def test_an_image_is_written_whoever_reads_what_is_said(tmp_path):
    words = f"{sys.executable} -m svdinv {WRITING} {tmp_path}"
    ended = subprocess.run(
        ["bash", "-c", f"{words} | head -1; exit ${{PIPESTATUS[0]}}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (141, "")
    assert (tmp_path / "coffee-network.png").exists()


def test_an_image_is_written_where_nothing_can_be_said(
    small_methods, tmp_path, monkeypatch, capsys
):
    for stream in ("stdout", "stderr"):  # as Python has them if a shell closed them
        with monkeypatch.context() as patch:
            patch.setattr(sys, stream, None)
            assert main([*WRITING.split(), str(tmp_path / stream)]) == 0
        assert capsys.readouterr().err == ""
        assert (tmp_path / stream / "coffee-network.png").exists()


def test_the_tasks_that_help_says_have_no_weights_have_none(capsys):
    assert main(["evaluate", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    (named,) = re.findall(r"task without weights, such as ([\w-]+)", said)
    assert named not in pretrained.names()
