"""Checks that all commands in documents exist: make targets, verbs with options, jobs, presets, config keys, files."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer.main

from pdetr3d import config_keys
from pdetr3d.presets import PRESETS, QUICKSTART
from ray_jobs.commands import app

ROOT = Path(__file__).resolve().parents[2]
READMES = [
    path
    for path in sorted([*ROOT.rglob("README.md"), *(ROOT / "docs").rglob("*.md")])
    if not {".venv", ".pytest_cache", "build", "runs"} & set(path.relative_to(ROOT).parts)
]
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
JOBS = {f"ray_jobs.{name.replace('-', '_')}": name for name in VERBS} | {"ray_jobs.predict": "predict-blocks"}
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands(text: str) -> list[list[str]]:
    """The command lines of all fenced code blocks and inline code, split into words; comments and prompts removed."""
    return block_commands(text, unlabeled=True) + inline_commands(text)


def block_commands(text: str, unlabeled: bool = False) -> list[list[str]]:
    """The commands of fenced code blocks that are labeled as shell, or have no label."""
    label = "(?:bash|sh|shell|console)" + ("?" if unlabeled else "")
    blocks = re.findall(rf"^```{label}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return _split([line for block in blocks for line in block.replace("\\\n", " ").splitlines()])


def inline_commands(text: str) -> list[list[str]]:
    """The commands of inline code, which may continue on the next line; other inline code is included."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    paragraphs = re.split(r"\n\s*\n", prose)
    return _split([" ".join(code.split()) for part in paragraphs for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", part)])


def _split(lines: list[str]) -> list[list[str]]:
    words = []
    for line in lines:
        try:
            words.append(shlex.split(line.strip().removeprefix("$ "), comments=True))
        except ValueError:  # a piece of prose or output, not a command
            continue
    return [_from_program(line) for line in words if line]


def _from_program(words: list[str]) -> list[str]:
    """Drop NAME=value in front; .venv/bin/pdetr3d -> pdetr3d; python -m X -> the words from -m on."""
    while words and re.fullmatch(r"[A-Z0-9_]+=.*", words[0]):
        words = words[1:]
    return [words[0].rsplit("/", 1)[-1], *words[1:]] if words else []


def problems(words: list[str]) -> list[str]:
    """The problems of a command line; empty if it is correct or not one of our commands."""
    if not words:
        return []
    if words[0] == "make":
        named = [word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)]
        return [f"make {word}: no such target" for word in named if word not in TARGETS]
    if words[0] == "pdetr3d" and len(words) > 1:
        return _verb_problems(words[1], words[2:])
    if words[0].startswith("python") and words[1:2] == ["-m"] and len(words) > 2 and words[2].startswith("ray_jobs"):
        if importlib.util.find_spec(words[2]) is None:
            return [f"python -m {words[2]}: no such module"]
        verb = JOBS.get(words[2])
        return _shared_problems(words[3:]) if verb is None else _verb_problems(verb, words[3:])
    return []


def _verb_problems(verb: str, rest: list[str]) -> list[str]:
    if verb.startswith("-") or verb.isupper() or "|" in verb:  # pdetr3d --help, pdetr3d VERB
        return []
    if verb not in VERBS:
        return [f"pdetr3d {verb}: no such verb"]
    group = getattr(VERBS[verb], "commands", None)
    if group is not None and rest and not rest[0].startswith("-"):  # pdetr3d import kitti
        if rest[0] not in group:
            return [f"pdetr3d {verb} {rest[0]}: no such verb"]
        known = {option for parameter in group[rest[0]].params for option in parameter.opts} | {"--help"}
        used = {word.split("=")[0] for word in rest if word.startswith("--")}
        return [f"pdetr3d {verb} {rest[0]} {option}: no such option" for option in sorted(used - known)]
    known = {option for parameter in VERBS[verb].params for option in parameter.opts} | {"--help"}
    used = {word.split("=")[0] for word in rest if word.startswith("--")}
    return [f"pdetr3d {verb} {option}: no such option" for option in sorted(used - known)] + _shared_problems(rest)


def _shared_problems(rest: list[str]) -> list[str]:
    """The problems of presets and dotted overrides, which verbs and jobs share."""
    found = []
    for place, word in enumerate(rest):
        if word == "--preset" and rest[place + 1 :] and rest[place + 1] not in {*PRESETS, "NAME"}:
            found.append(f"--preset {rest[place + 1]}: no such preset")
        key = word.split("=")[0]
        if "=" in word and re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key) and key not in QUICKSTART.flat():
            found.append(f"{key}: no such config key")
    return found


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_readmes_exist(path: Path) -> None:
    assert [problem for words in commands(path.read_text()) for problem in problems(words)] == []


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_in_readmes_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_the_readme_shows_the_two_commands() -> None:
    shown = [words for words in commands((ROOT / "README.md").read_text()) if words[:1] == ["make"]]
    assert ["make", "quickstart"] in shown and ["make", "test"] in shown


def test_the_readme_is_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130, "move it to docs/"


def test_every_config_key_has_a_meaning() -> None:
    every = config_keys.keys()
    assert set(every) == set(QUICKSTART.flat()) - {"preset"}
    assert [name for name, key in every.items() if not key.meaning] == [], "write a comment at the field"


def test_the_meaning_of_a_key_is_the_comment_at_its_field() -> None:
    key = config_keys.keys()["student.cbgs"]
    assert (key.default, key.unit) == ("false", "") and key.meaning.startswith("Class-balanced resampling")
    key = config_keys.keys()["scaling.stall_s"]  # a number with a limit and a unit
    assert (key.default, key.unit, key.allowed) == ("300.0", "s", "number > 0")
    assert config_keys.keys()["scaling.workers"].meaning.startswith(
        "Training workers: one number, or [fewest, most]"
    )  # lines above


def test_the_configuration_page_is_current() -> None:
    command = "python -m pdetr3d.config_keys > docs/configuration.md"
    assert (ROOT / "docs" / "configuration.md").read_text() == config_keys.page(), command


def every_verb() -> dict[str, str]:
    """Verb -> its help; verbs of a group are named like "import kitti"."""
    groups = {name: getattr(verb, "commands", {"": verb}) for name, verb in VERBS.items()}
    return {f"{name} {part}".strip(): verb.help or "" for name, parts in groups.items() for part, verb in parts.items()}


@pytest.mark.parametrize(("verb", "text"), every_verb().items())
def test_the_help_of_a_verb_shows_an_example(verb: str, text: str) -> None:
    """One line of the help is a command whose options, presets and keys exist."""
    (example,) = re.findall(r"^Example: (.*)$", text, re.MULTILINE)
    assert example.startswith(f"pdetr3d {verb} ") and problems(shlex.split(example)) == []


def test_modules_the_makefile_runs_exist() -> None:
    jobs = re.findall(r"-m (ray_jobs\.\w+)", (ROOT / "Makefile").read_text())
    assert jobs and [job for job in jobs if importlib.util.find_spec(job) is None] == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("make quikstart", ["make quikstart: no such target"]),
        ("make test ARGS='-k rigid'", []),
        ("$ PDETR3D_REAL_DATA=x make real-smoke  # comment", []),
        (".venv/bin/pdetr3d lable --index x", ["pdetr3d lable: no such verb"]),
        ("pdetr3d import kity --root x", ["pdetr3d import kity: no such verb"]),
        ("pdetr3d import kitti --rot x --out y", ["pdetr3d import kitti --rot: no such option"]),
        ("pdetr3d label --index x --ration 0.05", ["pdetr3d label --ration: no such option"]),
        ("pdetr3d show-config --preset quikstart", ["--preset quikstart: no such preset"]),
        ("python -m ray_jobs.no_such_job", ["python -m ray_jobs.no_such_job: no such module"]),
        ("python -m ray_jobs.train_teacher --present x", ["pdetr3d train-teacher --present: no such option"]),
        ("python -m ray_jobs.predict runs/x --lidar y --out z --actors 4", []),
        ("pdetr3d show-config optim.lrr=1 optim.lr=2", ["optim.lrr: no such config key"]),
        ("ls -l", []),
    ],
)
def test_the_check_sees_what_is_wrong(line: str, expected: list[str]) -> None:
    for text in (f"text\n```bash\n{line}\n```\n", f"say `{line}` here"):
        assert [problem for words in commands(text) for problem in problems(words)] == expected
