"""The launch recipes, with programs of our own in place of ssh, gcloud and xpk: who is started, how often, and how."""

import os
import pathlib
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "experiments/launch"
TRAIN = """#!/usr/bin/env bash
# In place of `wallwm`: counts its starts by process, and leaves with the next of its codes.
while [ $# -gt 0 ]; do [ "$1" = --process ] && process=$2; shift; done
starts="$0.${process:-0}"
echo start >>"$starts"
codes="CODES_${process:-0}"; read -r -a codes <<<"${!codes}"
exit "${codes[$(($(wc -l <"$starts") - 1))]}"
"""
SSH = '#!/usr/bin/env bash\ncd "$HOME" && exec bash -c "$2"\n'
GCLOUD = """#!/usr/bin/env bash
# Says that the slice is there; runs the command of a host, but not what prepares it.
case "$*" in
*describe*) echo ACTIVE ;;
*apt-get* | *scp* | "config set"*) ;;
*--command=*) cd "$HOME" && for last; do :; done && exec bash -c "${last#--command=}" ;;
esac
"""
GIT = "#!/usr/bin/env bash\n"
XPK = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" >"$HOME/arguments"\n'


@pytest.fixture
def launch(tmp_path):
    """`launch(recipe, environment, codes of process 0, ...)`: (exit code, starts of each process)."""
    programs = {"wallwm/.venv/bin/wallwm": TRAIN, "bin/ssh": SSH, "bin/gcloud": GCLOUD, "bin/xpk": XPK, "bin/git": GIT}
    for name, text in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(recipe, environment, *codes):
        named = {f"CODES_{process}": own for process, own in enumerate(codes)}
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        whole = os.environ | {"PATH": path, "HOME": str(tmp_path), "RUN": str(tmp_path)} | environment | named
        command = ["bash", str(LAUNCH / recipe)]
        code = subprocess.run(command, env=whole, cwd=LAUNCH, timeout=60, capture_output=True, check=False).returncode
        files = [tmp_path / f"wallwm/.venv/bin/wallwm.{process}" for process in range(len(codes))]
        return code, [len(file.read_text().splitlines()) if file.exists() else 0 for file in files]

    return run


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (("0", "0"), (0, [1, 1])),
        (("75 75 0", "75 75 0"), (0, [3, 3])),
        (("1 0", "75 0"), (0, [2, 2])),
        (("75 0", "1 0"), (0, [2, 2])),
        (("2", "2"), (2, [1, 1])),
        (("75 1", "75 0"), (1, [2, 2])),
    ],
)
def test_ssh_starts_an_unfinished_stage_again(launch, codes, expected):
    """As long as any process leaves because it was asked to stop, all are started again; any other failure ends it."""
    assert launch("ssh.sh", {"HOSTS": "a b"}, *codes) == expected


def test_ssh_gives_up_after_so_many_restarts(launch):
    """And says with its code that the stage is not finished."""
    assert launch("ssh.sh", {"HOSTS": "a", "RESTARTS": "2"}, "75 75 75 0") == (75, [3])


@pytest.mark.parametrize(("codes", "expected"), [("0", (0, [1])), ("75 75 0", (0, [3])), ("75 1 0", (1, [2]))])
def test_queued_resources_start_an_unfinished_stage_again(launch, codes, expected):
    """On the host itself, which knows the exit code."""
    assert launch("queued_resources.sh", {"PROJECT": "p", "ZONE": "z", "NFS": "h:/runs"}, codes) == expected


def test_xpk_is_told_the_code(launch, tmp_path):
    """The cluster starts the workload again on 75, and gives it time to save."""
    environment = {"PROJECT": "p", "ZONE": "z", "CLUSTER": "c", "IMAGE": "i"}
    assert launch("xpk.sh", environment) == (0, [])
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert {"--restart-on-exit-codes=75", "--max-restarts=100", "--termination-grace-period-seconds=120"} <= set(
        arguments
    )
