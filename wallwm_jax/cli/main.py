"""`wallwm`: the command line. Bad input prints one line on stderr and leaves with code 2, a run that cannot go on with
code 1."""

import argparse
import sys
from collections.abc import Sequence

from wallwm_jax.core.errors import InputError, RunError


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs one command. Returns the process's exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except (InputError, RunError) as error:
        print(f"wallwm {options.name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wallwm", description="World action models on semantic events.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="command")
    for name, help_text, command in (
        ("run", "record (if the config says so), curate, train the recipe's stages, evaluate", _run),
        ("curate", "carve a recorded dataset into an event index", _curate),
        ("train", "train one stage on a curated dataset", _train),
        ("evaluate", "evaluate a trained run on held-out episodes and write the report", _evaluate),
    ):
        subparser = commands.add_parser(name, help=help_text)
        subparser.set_defaults(command=command)
        subparser.add_argument("--config", required=True, help="experiments/FILE.py[:ARGUMENT]")
        subparser.add_argument("--workdir", required=True, help="where the run keeps everything it writes")
        subparser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
        if name == "evaluate":
            subparser.add_argument("--mode", help="drive the simulator instead, in that inference mode (extra `sim`)")
            subparser.add_argument("--rerun", action="store_true", help="also write a Rerun recording (extra `rerun`)")
        if name == "train":
            subparser.add_argument("--stage", type=int, required=True, help="0 to 5, see README")
            subparser.add_argument("--inject", metavar="FAULT", help="a fault on purpose: kill@step=7,phase=save")
        if name in ("run", "train"):
            accept_help = (
                "go on although this has changed: model, dtype, statistics, embodiment, data, tokenizer, config"
            )
            subparser.add_argument("--accept-change", action="append", default=[], metavar="NAME", help=accept_help)
            _add_group(subparser)
    _add_checkpoint_commands(commands)
    _add_plan_command(commands)
    record = commands.add_parser("record", help="record simulated episodes as LeRobot v3.0 (extra `sim`)")
    record.set_defaults(command=_record)
    record.add_argument("--plan", required=True, help="sample, tabletop, tours, unseen, tours_unseen, scenes or stock")
    record.add_argument("--episodes", type=int, help="number of episodes (all plans but sample and stock)")
    record.add_argument("--output", required=True, help="folder of the new dataset")
    record.add_argument("--workers", type=int, default=2)
    doctor = commands.add_parser("doctor", help="say what this machine has")
    doctor.set_defaults(command=_doctor)
    return parser


def _add_group(subparser: argparse.ArgumentParser) -> None:
    """Options of a run of several processes, which see one file system."""
    subparser.add_argument("--coordinator", metavar="HOST:PORT", help="process 0 of several, or auto (TPU, GKE)")
    subparser.add_argument("--processes", type=int, default=1, help="how many there are")
    subparser.add_argument("--process", type=int, default=0, help="this one's number, from 0")
    subparser.add_argument("--patience", type=float, default=300.0, help="seconds that they wait for each other")


def _add_checkpoint_commands(commands: argparse._SubParsersAction) -> None:
    """`wallwm ckpt verify|diff|export` and `wallwm replay`."""
    replay = commands.add_parser("replay", help="do a step again that was kept because it was not finite")
    replay.set_defaults(command=_replay)
    replay.add_argument("path", help="the folder that the run named, .../not_finite/STEP")
    checkpoints = commands.add_parser("ckpt", help="verify, compare or export checkpoints")
    actions = checkpoints.add_subparsers(dest="action", required=True, metavar="action")
    where = "a folder of checkpoints, or one step of it"
    verify = actions.add_parser("verify", help="compare every file with what was saved; 1 if any is damaged")
    verify.set_defaults(command=_verify)
    verify.add_argument("path", help=where)
    diff = actions.add_parser("diff", help="say how two checkpoints differ; 1 if they do")
    diff.set_defaults(command=_diff)
    diff.add_argument("first", help=where)
    diff.add_argument("second", help=where)
    export = actions.add_parser("export", help="write a checkpoint's parameters as safetensors")
    export.set_defaults(command=_export)
    export.add_argument("path", help=where)
    export.add_argument("--output", required=True, metavar="FILE.safetensors")
    export.add_argument("--averaged", action="store_true", help="the averaged parameters, which inference uses")


def _add_plan_command(commands: argparse._SubParsersAction) -> None:
    plan = commands.add_parser("plan", help="say whether a train step fits a topology, and how fast it can be")
    plan.set_defaults(command=_plan)
    plan.add_argument("--config", required=True, help="experiments/FILE.py[:ARGUMENT]")
    plan.add_argument("--topology", required=True, help="CHIP:SIDES, such as v5p:4x4x4, v5e:16x16 or h100:8")
    plan.add_argument("--slices", type=int, default=1, help="slices of that topology")
    plan.add_argument("--stage", type=int, help="0 to 5; the first of the config's recipe by default")
    plan.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    plan.add_argument("--views", type=int, help="cameras of the dataset; else config.plan.views")
    plan.add_argument("--json", metavar="FILE", help="also write the plan as JSON, and print it as the last line")
    plan.add_argument("--analytic", action="store_true", help="without the compiler: shardings and counts alone")


# Each command imports what it needs when it runs: `wallwm --help` must not wait for jax.


def _run(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import pipeline

    _join(options)
    pipeline.run(options.config, options.set, options.workdir, options.accept_change, options.patience)


def _join(options: argparse.Namespace) -> None:
    """Makes this process one of several, if the command line says so."""
    if options.coordinator is None and options.processes == 1:
        return
    from wallwm_jax.cli import joining

    group = (options.coordinator or "", options.processes, options.process, options.patience)
    joining.join_run(options.config, options.set, *group)


def _curate(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import pipeline

    pipeline.curate(pipeline.open_run(options.config, options.set, options.workdir))


def _train(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import pipeline

    _join(options)
    folder = pipeline.open_run(options.config, options.set, options.workdir)
    pipeline.train(folder, options.stage, options.accept_change, options.inject, options.patience)


def _evaluate(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import pipeline

    folder = pipeline.open_run(options.config, options.set, options.workdir)
    if options.mode is None:
        pipeline.evaluate(folder, options.rerun)
    else:
        pipeline.drive(folder, options.mode, options.rerun)


def _verify(options: argparse.Namespace) -> int:
    from wallwm_jax.cli import checkpoints

    return checkpoints.verify(options.path)


def _diff(options: argparse.Namespace) -> int:
    from wallwm_jax.cli import checkpoints

    return checkpoints.diff(options.first, options.second)


def _export(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import checkpoints

    checkpoints.export(options.path, options.output, options.averaged)


def _replay(options: argparse.Namespace) -> int:
    from wallwm_jax.cli import replaying

    return replaying.replay(options.path)


def _plan(options: argparse.Namespace) -> int:
    from wallwm_jax.cli import planning

    where = {"slices": options.slices, "number": options.stage, "views": options.views}
    chosen = where | {"analytic": options.analytic, "output": options.json}
    return planning.plan(options.config, options.set, options.topology, **chosen)


def _record(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import recording

    recording.record(options.plan, options.output, options.episodes, options.workers)


def _doctor(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import doctor

    doctor.report()


if __name__ == "__main__":
    sys.exit(main())
