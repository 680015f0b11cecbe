"""The completion script completes what the commands take, and reads no method to do so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from marlzoo.cli import COMMANDS, main
from marlzoo.cli.completing import SHELLS
from marlzoo.cli.data import ACTIONS

# Prints what bash offers for each line of words, the last of which is incomplete.
ASK = """
source "$1"; shift
for line in "$@"; do
  COMP_WORDS=($line); [[ $line == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
  $(complete -p marlzoo | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
  echo "${COMPREPLY[@]}"
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_methods_options_and_values(tmp_path: Path) -> None:
    code = (
        "import sys; from marlzoo.cli import main\n"
        "main(['completion', 'bash']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    script = tmp_path / "marlzoo.bash"
    script.write_text(done.stdout)
    lines = {
        "marlzoo ": set(COMMANDS),
        "marlzoo train omi": {"omiga"},
        "marlzoo train omiga --al": {"--alpha"},
        "marlzoo train omiga --eval-e": {"--eval-every"},
        "marlzoo train mappo --roll": {"--rollout"},
        "marlzoo train mappo --step": {"--steps"},
        "marlzoo train mappo --rew": set(),
        "marlzoo bench smoke --no-ch": {"--no-check-data"},
        "marlzoo data ": set(ACTIONS),
        "marlzoo data model --model-u": {"--model-updates"},
        "marlzoo data mix --tr": {"--transitions"},
        "marlzoo table results/x --format la": {"latex"},
        "marlzoo doctor --ver": {"--verify"},
    }
    asked = subprocess.run(
        ["bash", "-c", ASK, "bash", str(script), *lines], capture_output=True, text=True, check=True
    )
    answers = dict(zip(lines, asked.stdout.splitlines(), strict=True))
    for line, wanted in lines.items():
        assert wanted <= set(answers[line].split()), (line, answers[line], asked.stderr)
    assert answers["marlzoo train mappo --rew"].split() == []  # it does not read reward_mode


def test_shells_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(way in shown for way in SHELLS.values())
    assert main(["completion", "csh"]) == 2
    assert "unknown shell 'csh'" in capsys.readouterr().err
