"""What commands share: option types, the network option, and errors of one line."""

from __future__ import annotations

import functools
import math
import re
import signal
import sys
from typing import Callable, List, Tuple

import click

USER_ERROR = 2  # exit code
INTERRUPTED = 130


class SeedRange(click.ParamType):
    """Seeds like 0-3,7,12 -> [0, 1, 2, 3, 7, 12]."""

    name = "seeds"

    def convert(self, value, param, ctx) -> List[int]:
        if isinstance(value, list):
            return value
        seeds: List[int] = []
        for part in value.split(","):
            match = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", part.strip())
            if match is None:
                self.fail(f"{part!r} is no seed and no range; write them like 0-3,7", param, ctx)
            first, last = int(match[1]), int(match[2] or match[1])
            if not first <= last < 2**32:
                self.fail(f"{part!r}: a range goes upwards, seeds below 4294967296", param, ctx)
            if last - first >= 1_000_000:
                self.fail(f"{part!r} is more than a million seeds", param, ctx)
            seeds += range(first, last + 1)
        return seeds


class GridSize(click.ParamType):
    """COLUMNSxROWS, like 4x2 -> (4, 2)."""

    name = "columns x rows"

    def convert(self, value, param, ctx) -> Tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([0-9]{1,2})[x,]([0-9]{1,2})", value.strip())
        if match is None or not all(1 <= int(number) <= 64 for number in match.groups()):
            self.fail(f"{value!r}: write columns and rows like 4x2, each 1 to 64", param, ctx)
        return int(match[1]), int(match[2])


class Finite(click.FloatRange):
    """A number, neither infinite nor NaN."""

    def convert(self, value, param, ctx) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


def switch(name: str, default: bool, **kwargs) -> Callable:
    """An option that is true when given, and takes a value like --name=false as the official commands do."""
    return click.option(name, type=bool, default=default, is_flag=False, flag_value=True, metavar="[BOOL]", **kwargs)


def network_options(command: Callable) -> Callable:
    """--network, --device, --trust, --reload_modules; the command gets the loaded generator as G."""

    @click.option("--network", required=True, metavar="FILE|URL|NAME", help="The network: a snapshot's path, URL or name.")
    @click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")
    @click.option("--trust", is_flag=True, help="Execute the code inside the file: only for forks whose authors you trust.")
    @switch("--reload_modules", False, help="Use this project's code, not the file's: already so without --trust.")
    @functools.wraps(command)
    def wrapper(network, device, trust, reload_modules, **kwargs):
        import torch  # here, so that --help need not wait for it

        from eg3d import generator

        if trust and reload_modules:
            raise click.UsageError("--trust runs the code in the file, --reload_modules does not: give one of them")
        torch.backends.cudnn.allow_tf32 = False  # the official pictures are full precision
        click.echo(f"Loading {network} ...", err=True)
        return command(G=generator.load(network, device=device, trust=trust), **kwargs)

    return wrapper


def run(command: click.Command) -> None:
    """Runs a command; the user's mistakes become one line and exit code 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as after Ctrl-C, with nothing half-written
    try:
        sys.exit(command.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        message = error.format_message()
    except (OSError, ValueError) as error:  # a CheckpointError is a ValueError
        message = str(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted: nothing half-written was left.", err=True)
        sys.exit(INTERRUPTED)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's, which need not be imported yet
            raise
        message = "the device has too little memory: choose --device=cpu, or less --nrr or --sample_mult"
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(USER_ERROR)
