"""eg3d convert: networks from one format to another."""

import click

from eg3d.cli import options


@click.command("convert")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO", type=options.Output())
@click.option("--only", metavar="NAME", help="Convert one network of a snapshot, like G_ema; by default all it holds.")
@click.option("--half", is_flag=True, help="Round float32 to float16 in a .safetensors, which loading widens again.")
@options.trust_option
def convert(source, target, only, half, trust):
    """Converts a snapshot or network between .pkl (official) and .safetensors (which cannot hide code).

    FROM is a path, URL or name; the suffix of TO says what is written. Weights, buffers and settings keep every bit, but
    for --half. The official scripts want G and D in a .pkl too: keep the whole snapshot for them.
    """
    import os

    from torch.nn import Module

    from dnnlib.util import open_url
    from eg3d import generator
    from torch_utils.persistence import CheckpointError
    from torch_utils.tensor_files import SUFFIX

    generator.check_suffix(target)
    if half and not target.endswith(SUFFIX):
        raise click.UsageError(f"{target}: --half writes {SUFFIX} only")
    with open_url(generator.find(source)) as file:  # whatever way leads there
        same = os.path.exists(target) and os.path.samefile(file.name, target)
    if same:
        raise click.UsageError(f"{target}: FROM and TO are the same file")
    snapshot = generator.load_snapshot(source, trust=trust)
    if only is not None:
        if not isinstance(snapshot, dict) or not isinstance(snapshot.get(only), Module):
            held = snapshot if isinstance(snapshot, dict) else {"a bare network": snapshot}
            names = ", ".join(str(key) for key, value in held.items() if isinstance(value, Module)) or "none"
            raise CheckpointError(f"{source}: holds no network {only}, but {names}")
        snapshot = {only: snapshot[only]}
    generator.save_snapshot(snapshot, target, half)
    click.echo(f"{target}: {os.path.getsize(target) / 1e6:.1f} MB")
