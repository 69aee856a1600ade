"""The files that others start servers with: they can be read, and say what the commands know."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from omnimix.cli.main import app

DEPLOY = Path(__file__).parents[2] / "deploy"


def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def test_two_replicas_stand_behind_a_proxy_and_have_no_rights() -> None:
    services = compose()["services"]
    replicas = {name: words for name, words in services.items() if "build" in words}
    assert len(replicas) == 2
    for words in replicas.values():
        assert words["read_only"] and words["cap_drop"] == ["ALL"] and "ports" not in words
    proxy = (DEPLOY / "proxy.conf").read_text(encoding="utf-8")
    assert set(re.findall(r"server (\w+):7860", proxy)) == set(replicas)
    assert proxy.count("{") == proxy.count("}") and "proxy_buffering off" in proxy


def test_the_commands_know_their_options() -> None:
    told = " ".join(CliRunner().invoke(app, ["serve", "--help"], terminal_width=400).output.split())
    docker = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    words = [*compose()["services"]["first"]["command"], *re.findall(r'"(--[\w-]+)"', docker)]
    options = {word for word in words if word.startswith("--")}
    assert len(options) > 4 and all(option in told for option in options)
    grace = int(compose()["services"]["first"]["stop_grace_period"].removesuffix("s"))
    command = compose()["services"]["first"]["command"]
    assert grace > int(command[command.index("--grace") + 1])


def test_the_image_runs_as_nobody_special() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    user = lines.index("USER 10001")
    assert user < next(i for i, line in enumerate(lines) if line.startswith("ENTRYPOINT"))
