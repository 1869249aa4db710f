"""Faults of every kind, and what a run makes of them. Nothing here is special to the toy but its speed: `fit`, the
checkpoints, the optimizer and the injector are the real ones."""

import json
import os
import pathlib
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from tests.train.synthetic import random_batch
from tests.train.test_fit import Silent
from tests.train.toy import toy_data, toy_parameters, toy_run, toy_start
from wallwm_jax.core.errors import InputError, RunError
from wallwm_jax.core.trees import digest
from wallwm_jax.train.checkpoint import committed_steps, read_arrays, read_checkpoint
from wallwm_jax.train.faults import PHASES, Fault
from wallwm_jax.train.fit import fit, make_programs
from wallwm_jax.train.manifest import MANIFEST
from wallwm_jax.train.metrics import WALL_CLOCK, read_metrics
from wallwm_jax.train.run import StageData
from wallwm_jax.train.stop import UNFINISHED, StopSignals

ROOT = pathlib.Path(__file__).parents[2]
STEPS, EVERY, KILLS, FLIPS = 50, 2, 20, 40


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """`train(directory, **request)`: (exit code, output) of a run in a process of its own; see fault_runs."""
    command = [sys.executable, str(ROOT / "tests/train/fault_runs.py"), str(tmp_path_factory.mktemp("compiled"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **pipes) as process:

        def run(directory, **request):
            settings = {"steps": STEPS, "checkpoint_every": EVERY} | request
            print(json.dumps({"directory": str(directory), **settings}), file=process.stdin, flush=True)
            answer = json.loads(process.stdout.readline())
            return answer["code"], answer["output"]

        yield run
        process.stdin.close()


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory):
    """(last line of output with the digest of the final state, lines of metrics) of a run without incident."""
    directory = tmp_path_factory.mktemp("whole")
    code, output = train(directory)
    assert code == 0, output
    return output.splitlines()[-1], _lines(directory)


def _lines(directory):
    lines = read_metrics(directory / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in WALL_CLOCK} for line in lines]


def _goes_on_to_the_same_end(train, directory, uninterrupted):
    code, output = train(directory)
    assert code == 0, output
    assert (output.splitlines()[-1], _lines(directory)) == uninterrupted


def test_twenty_kills_change_nothing(train, uninterrupted, tmp_path):
    """Killed twenty times while compiling, reading data, stepping and saving, at random steps, one run ends with the
    bits of one that was left alone: parameters, moments, average, counters and the lines of metrics. After every kill
    the newest step is whole."""
    generator = np.random.default_rng(20)
    steps = np.sort(generator.choice(np.arange(1, STEPS - EVERY), KILLS, replace=False))
    phases = generator.permutation(np.repeat(PHASES["kill"], KILLS // 4))
    for step, phase in zip(steps, phases, strict=True):
        where = f"phase={phase}" if phase == "compile" else f"phase={phase},step={step}"
        code, output = train(tmp_path, fault=f"kill@{where}")
        assert code == -9, (phase, step, output)
        if saved := committed_steps(tmp_path / "checkpoints"):
            assert read_checkpoint(tmp_path / "checkpoints").step == saved[-1] <= step + EVERY
    _goes_on_to_the_same_end(train, tmp_path, uninterrupted)


def _classes(step: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """The files of a step by their place: names made of hexadecimal digits are all the same to Orbax."""
    found: dict[str, list[pathlib.Path]] = {}
    for path in sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size):
        name = path.relative_to(step)
        hexadecimal = len(name.name) == 32 and "." not in name.name
        found.setdefault(str(name.parent / "*" if hexadecimal else name), []).append(path)
    return found


def test_forty_flipped_bits_are_all_caught(train, uninterrupted, tmp_path):
    """One bit anywhere in any file of a step, of every class that there is, is noticed on reading, and the message
    names the file; without the damage the step reads as before."""
    assert train(tmp_path, steps=4)[0] == 0
    directory, generator = tmp_path / "checkpoints", np.random.default_rng(40)
    classes = _classes(directory / "4")
    names = {MANIFEST, "config.json", "state/_METADATA", "state/ocdbt.process_0/d/*", "state/manifest.ocdbt"}
    assert names <= set(classes) and len(classes) <= FLIPS
    before = digest(read_arrays(directory)[1])
    for number in range(FLIPS):
        paths = list(classes.values())[number % len(classes)]
        path = paths[generator.integers(len(paths))]
        whole = path.read_bytes()
        damaged, place = bytearray(whole), generator.integers(8 * len(whole))
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=f"checkpoint file {path}: found"):
            read_checkpoint(directory)
        path.write_bytes(whole)
    assert digest(read_arrays(directory)[1]) == before


@pytest.mark.parametrize("cause", [{"fault": "write_error@step=6"}, {"happening": "full disk"}])
def test_a_failed_background_save_ends_the_run(train, uninterrupted, tmp_path, cause):
    """Long before its end, with code 1 and the name of the file; the steps before it are whole, the failed one is none,
    and with room on the disk the run goes on from there to the same end."""
    code, output = train(tmp_path, **cause)
    assert code == 1 and "RunError: checkpoint" in output and f"{tmp_path}/checkpoints/" in output
    assert f"{tmp_path}/checkpoints/" in output.split("could not be saved", 1)[1]
    assert f"toy {STEPS}/{STEPS}" not in output
    whole = committed_steps(tmp_path / "checkpoints")
    assert whole == [2, 4] if "fault" in cause else max(whole, default=0) < 8
    for step in whole:
        read_checkpoint(tmp_path / "checkpoints", step)
    _goes_on_to_the_same_end(train, tmp_path, uninterrupted)


def test_a_failed_save_is_told_at_the_next_step(tmp_path, monkeypatch):
    """And not only when the next save is due, which may be hours later: the save at step 60 fails, the next would be at
    step 120. Data waits until it has failed."""
    failed, strike, reached = threading.Event(), Fault.strike, []

    def strike_and_tell(fault, phase, step, path=None):
        try:
            strike(fault, phase, step, path)
        except OSError:
            failed.set()
            raise

    class Noting(Silent):
        def advance(self, step):
            reached.append(step)

    def batches(first):
        for step in range(first, 120):
            if step == 62:
                failed.wait(60)
            yield random_batch(100 + step)

    monkeypatch.setattr(Fault, "strike", strike_and_tell)
    run = toy_run(tmp_path, Fault.parse("write_error"), steps=120, checkpoint_every=60)
    with pytest.raises(RunError, match=rf"{tmp_path}/checkpoints/60 could not be saved"):
        fit(run, toy_start(), StageData(batches, toy_data().heldout), Noting())
    assert reached[-1] < 90


def test_sigterm_saves_and_leaves_unfinished(train, uninterrupted, tmp_path):
    """The step under way is finished and saved, whether or not a save was due; the same command goes on from there."""
    code, output = train(tmp_path, happening="SIGTERM", checkpoint_every=STEPS)
    step = int(output.splitlines()[-1].split()[1])
    assert code == UNFINISHED and 0 < step < STEPS and committed_steps(tmp_path / "checkpoints") == [step]
    _goes_on_to_the_same_end(train, tmp_path, uninterrupted)


def test_sigterm_while_compiling_leaves_at_once(train, tmp_path):
    """Compiling cannot be interrupted, and there is nothing to save; no job manager takes the code for done."""
    code, output = train(tmp_path, happening="SIGTERM while compiling")
    assert code == UNFINISHED != 0 and "asked to stop (SIGTERM) before the first step: nothing to save" in output


def test_a_dead_data_worker_ends_the_run(train, tmp_path):
    """Not with a hang and not with code 0; what was saved before stays."""
    code, _ = train(tmp_path, happening="dead worker")
    assert code not in (0, -9)
    assert read_checkpoint(tmp_path / "checkpoints").step >= EVERY


@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_gradients_that_are_not_finite_are_skipped(tmp_path, kind):
    """Three such steps are counted and change nothing; after them the run learns on, and nothing it has learned is
    poisoned."""
    fault, states = Fault.parse(f"{kind}@step=5,count=3"), {}

    class Stopping(Silent):
        """Asks to stop after a step, so that the state of that step is returned."""

        def advance(self, step):
            if step == self.last:
                stop.received = "SIGTERM"

    for last in (4, 7, 12):
        stop = StopSignals()
        states[last] = fit(toy_run(tmp_path, fault), toy_start(), toy_data(), Stopping(last), stop)
    for part in ("parameters", "average", "optimizer_state"):
        before, held, after = (digest(getattr(states[last], part)) for last in (4, 7, 12))
        assert before == held != after
    assert [int(state.skipped) for state in states.values()] == [0, 3, 3]
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(states[12]))
    assert [line.get("skipped") for line in _lines(tmp_path)] == [None, None, 2, 3, 3, 3]


def test_gradients_of_1e20_are_steps_like_others(tmp_path):
    """Their squares overflow, but they are numbers: nothing is skipped, everything moves, and stays finite."""
    state = fit(toy_run(tmp_path, Fault.parse("huge@step=2,count=3"), steps=4), toy_start(), toy_data(), Silent())
    assert int(state.skipped) == 0
    moved = jax.tree.map(lambda one, other: np.abs(one - other).max(), state.parameters, toy_parameters())
    assert float(moved.pop("frozen")["scale"]) == 0
    assert all(0 < float(leaf) < np.inf for leaf in jax.tree.leaves(moved))


def test_too_many_of_them_end_the_run(tmp_path):
    """At exactly the `stop_after_skipped`-th in a row, naming the step and where it is kept; one fewer does not."""
    run = toy_run(tmp_path, Fault.parse("nan@step=4,count=6"), stop_after_skipped=6)
    with pytest.raises(RunError, match=rf"6 steps in a row were not finite, the last of them step 9 .*{tmp_path}.*/8`"):
        fit(run, toy_start(), toy_data(), Silent())
    assert committed_steps(tmp_path / "not_finite") == [8]
    other = toy_run(tmp_path / "fewer", Fault.parse("nan@step=4,count=5"), stop_after_skipped=6)
    assert int(fit(other, toy_start(), toy_data(), Silent()).skipped) == 5


def test_faults_are_read_and_refused():
    """Kind, step, phase and count as they are printed; anything else names itself."""
    fault = Fault.parse("kill@step=7,phase=save")
    assert fault == Fault("kill", 7, "save") and Fault.parse(str(fault)) == fault
    assert Fault.parse("write_error@step=3").phase == "save" and Fault.parse("nan@count=4").step == 1
    for text, match in [
        ("melt@step=7", "'melt', expected one of"),
        ("kill@step=7,phase=lunch", "phase: found 'lunch'"),
        ("nan@phase=save", "fault nan: phase"),
        ("kill@when=7", "'when=7'"),
        ("kill@step=x", "'step=x'"),
        ("kill@step=0", "step 0"),
        ("kill@count=2", "count"),
        ("kill@step=7,phase=compile", "no step"),
    ]:
        with pytest.raises(InputError, match=match):
            Fault.parse(text)


def test_without_a_fault_the_program_knows_of_none(tmp_path):
    """The compiled step has no trace of the injector: neither its numbers nor a comparison with its step."""

    def text(fault):
        run = toy_run(tmp_path, fault)
        with jax.set_mesh(run.mesh):
            programs = make_programs(run, toy_parameters())
            return programs.step.lower(programs.state, toy_data().heldout[0]).as_text()

    plain, kill, nan = (text(fault and Fault.parse(fault)) for fault in (None, "kill@step=7", "nan@step=7"))
    assert plain == kill != nan
