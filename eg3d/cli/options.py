"""What commands share: option types, the options of networks and shapes, and errors of one line."""

from __future__ import annotations

import functools
import math
import os
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Callable, List, Optional, Tuple

import click

from dnnlib.util import keep_freed_memory

LONGEST_MESSAGE = 600  # characters
USER_ERROR = 2  # exit code
INTERRUPTED = 130
TOO_LITTLE_MEMORY = ("there is too little memory: choose less --nrr, --sample_mult, --grid or --shape-res, another --device, "
                     "or a machine that has more")


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


class Output(click.ParamType):
    """A place that can be written to; nothing is made there yet. The command gets the text, since a slash at its end counts.

    `folder` says what must be meant: a folder (True), a file (False), or either (None).
    """

    name = "path"

    def __init__(self, folder: Optional[bool] = False):
        self.folder = folder

    def convert(self, value, param, ctx) -> str:
        value = os.path.expanduser(value)  # which shells leave as it is in --option=~/place
        if not value.strip() or "\0" in value:
            self.fail("the path is empty" if not value.strip() else "no path holds a NUL", param, ctx)
        path, slash = Path(value), value.endswith(("/", os.sep))
        # The nearest place that is there decides.
        near = next(place for place in [path, *path.parents] if place.exists())
        if near != path and not near.is_dir():
            self.fail(f"{value}: {near} is a file, not a folder", param, ctx)
        if near == path and not path.is_dir() and (self.folder or slash):
            self.fail(f"{value}: a file is there, not a folder", param, ctx)
        if self.folder is False and (slash or path.is_dir()):
            self.fail(f"{value}: that is a folder, give a file's name", param, ctx)
        if not (near.is_dir() or near.is_file()):
            self.fail(f"{value}: what is there is no ordinary file", param, ctx)
        if not os.access(near, os.W_OK):
            self.fail(f"{value}: there is no permission to write to {near}", param, ctx)
        return value


class Input(click.Path):
    """A file that is there."""

    def __init__(self):
        super().__init__(exists=True, dir_okay=False)

    def convert(self, value, param, ctx) -> str:
        return super().convert(os.path.expanduser(value), param, ctx)


def switch(*names: str, default: Optional[bool], **kwargs) -> Callable:
    """An option that is true when given, and takes a value like --name=false as the official commands do."""
    return click.option(*names, type=bool, default=default, is_flag=False, flag_value=True, metavar="[BOOL]", **kwargs)


def _together(*decorators: Callable) -> Callable:
    """Several options as one decorator, in this order in --help."""
    return lambda command: functools.reduce(lambda wrapped, decorator: decorator(wrapped), reversed(decorators), command)


device_option = click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")
trust_option = click.option(
    "--trust", is_flag=True, help="Execute the code inside the file: only for forks whose authors you trust.")

truncation_options = _together(
    click.option("--trunc", "psi", type=Finite(-100, 100), default=1.0, show_default=True,
                 help="Truncation psi: below 1, closer to the mean."),
    click.option("--trunc-cutoff", "cutoff", type=click.IntRange(min=0), default=14, show_default=True,
                 help="Layers that truncation reaches; in films 0 switches it off."))

shape_options = _together(
    click.option("--shape-res", "resolution", type=click.IntRange(8, 1024), default=512, show_default=True,
                 help="Grid points along a side."),
    click.option("--shape-format", "suffix", type=click.Choice([".mrc", ".ply", ".obj", ".glb"]), default=".mrc",
                 show_default=True, help="The density as a volume (.mrc), or its coloured surface."),
    click.option("--shape-level", "level", type=Finite(-1e6, 1e6), default=10.0, show_default=True,
                 help="Density at the surface."),
    click.option("--shape-part", "part", type=click.Choice(["all", "largest"]), default="all", show_default=True,
                 help="Keep the whole surface, or its largest connected part."))


def network_options(command: Callable) -> Callable:
    """--network, --device, --precision, --trust, --reload_modules; the command gets `load`, which returns the generator.

    A network may be large or far away: commands call it when everything else that was typed is known to be right.
    """

    @_together(
        click.option("--network", default="demo", show_default=True, metavar="FILE|URL|NAME",
                     help="The network: a snapshot's path, URL or name."),
        device_option,
        click.option("--precision", type=click.Choice(["full", "tf32"]), default="full", show_default=True,
                     help="tf32: on CUDA, products of 10 bits instead of 23, which is faster and less exact."),
        trust_option,
        switch("--reload_modules", default=False, help="Use this project's code, not the file's: already so without --trust."))
    @functools.wraps(command)
    def wrapper(network, device, precision, trust, reload_modules, **kwargs):
        if trust and reload_modules:
            raise click.UsageError("--trust runs the code in the file, --reload_modules does not: give one of them")
        return command(load=functools.partial(load_network, network, device, precision, trust), **kwargs)

    return wrapper


def load_network(network: str, device: str, precision: str, trust: bool):
    """The generator on its device, with a line that says what is loaded."""
    import torch  # here, so that --help need not wait for it

    from eg3d import generator

    device = generator.choose_device(device)
    if precision == "tf32" and device.type != "cuda":
        raise click.UsageError(f"--precision=tf32 is of CUDA cards, and this is the {device.type}: leave it out")
    # The official pictures are of full precision.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    click.echo(f"Loading {one_line(network)} ...", err=True)
    return generator.load(network, device=device, trust=trust)


def run(command: click.Command) -> None:
    """Runs a command; the user's mistakes become one line and exit code 2."""
    for name in ("SIGTERM", "SIGHUP"):  # killed, or the terminal closed: end as after Ctrl-C, with nothing half-written
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # which is nohup's
            signal.signal(number, signal.default_int_handler)
    keep_freed_memory()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            sys.exit(command.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        message = error.format_message()
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    except ValueError as error:  # a CheckpointError is one
        message = str(error)
    except (KeyboardInterrupt, click.Abort) as error:
        told = str(error) or str(error.__cause__ or "")  # click's Abort comes from what was raised
        click.echo(f"Interrupted: {told or 'nothing half-written was left.'}", err=True)
        sys.exit(INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        from torch_utils.misc import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        message = TOO_LITTLE_MEMORY
    click.echo(f"Error: {one_line(message)}", err=True)
    sys.exit(USER_ERROR)


def needs(*names: str, because: str) -> None:
    """Raises UsageError for the first of these parameters that was typed: it would be read by nothing."""
    ctx = click.get_current_context()
    for param in ctx.command.params:
        if param.name in names and ctx.get_parameter_source(param.name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{param.opts[0]} needs {because}")


def check_shape_options(shapes: bool, suffix: str) -> None:
    """Refuses options of shapes where none is written; --shape-res is let through, since published commands carry it."""
    if not shapes:
        needs("suffix", because="--shapes")
    if not shapes or suffix == ".mrc":
        needs("level", "part", because="--shapes and --shape-format=.ply, .obj or .glb")


def one_line(text: str) -> str:
    """Without line breaks; of what is too long the beginning and the end, which say what is wrong and what to do."""
    text = " ".join(text.split())
    half = LONGEST_MESSAGE // 2
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:half]} ... {text[-half:]}"


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    text = f"Warning: {one_line(str(message))}"
    if "tqdm" in sys.modules:  # above its progress bar
        sys.modules["tqdm"].tqdm.write(text, file=sys.stderr)
    else:
        click.echo(text, err=True)
