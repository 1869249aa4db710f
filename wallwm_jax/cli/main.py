"""`wallwm`: the command line. Bad input prints one line on stderr and leaves with code 2."""

import argparse
import sys
from collections.abc import Sequence

from wallwm_jax.core.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs one command. Returns the process's exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except InputError as error:
        print(f"wallwm {options.name}: {error}", file=sys.stderr)
        return 2
    return 0


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
            subparser.add_argument("--mode", help="drive the simulator instead: event or unified (extra `sim`)")
            subparser.add_argument("--rerun", action="store_true", help="also write a Rerun recording (extra `rerun`)")
        if name == "train":
            subparser.add_argument("--stage", type=int, required=True, help="0 to 5, see README")
    record = commands.add_parser("record", help="record simulated episodes as LeRobot v3.0 (extra `sim`)")
    record.set_defaults(command=_record)
    record.add_argument("--plan", required=True, help="sample, tabletop, tours, unseen, tours_unseen, scenes or stock")
    record.add_argument("--episodes", type=int, help="number of episodes (all plans but sample and stock)")
    record.add_argument("--output", required=True, help="folder of the new dataset")
    record.add_argument("--workers", type=int, default=2)
    doctor = commands.add_parser("doctor", help="say what this machine has")
    doctor.set_defaults(command=_doctor)
    return parser


# Each command imports what it needs when it runs: `wallwm --help` must not wait for jax.


def _run(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import pipeline

    pipeline.run(options.config, options.set, options.workdir)


def _curate(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import pipeline

    pipeline.curate(pipeline.open_run(options.config, options.set, options.workdir))


def _train(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import pipeline

    pipeline.train(pipeline.open_run(options.config, options.set, options.workdir), options.stage)


def _evaluate(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import pipeline

    folder = pipeline.open_run(options.config, options.set, options.workdir)
    if options.mode is None:
        pipeline.evaluate(folder, options.rerun)
    else:
        pipeline.drive(folder, options.mode, options.rerun)


def _record(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import recording

    recording.record(options.plan, options.output, options.episodes, options.workers)


def _doctor(options: argparse.Namespace) -> None:
    from wallwm_jax.cli import doctor

    doctor.report()


if __name__ == "__main__":
    sys.exit(main())
