"""What a training run is asked for (`Options`) and what follows from it (`resolve`): the official training_options.json.

Every option is a field here with its help and its limits; the command line is made from them (eg3d/cli/train.py). A preset is
the cameras and ranges of one kind of data, and the sizes of its networks where they are not the paper's.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Callable, Dict, List, Literal, Optional, Tuple, Union

from dnnlib import EasyDict
from dnnlib.util import get_obj_by_name

# ------------------------------------------------------------------------------------------------ presets


@dataclasses.dataclass(frozen=True)
class Preset:
    """How one kind of data is seen; None: the user must say it."""

    samples: int  # of the coarse pass along a ray
    importance: int  # of the fine pass
    ray_start: Optional[float] = None  # distance of the first sample from the camera
    ray_end: Optional[float] = None
    box_warp: Optional[float] = None  # side of the box that the planes cover
    radius: Optional[float] = None  # of the sphere the cameras stand on, about the world's origin
    pivot: Optional[Tuple[float, float, float]] = None  # what they look at
    focal: Optional[float] = None  # focal length in picture widths
    white_back: bool = False
    usual: Dict[str, Any] = dataclasses.field(default_factory=dict)  # of options that nobody gave


FACES = dict(samples=48, importance=48, ray_start=2.25, ray_end=3.3, box_warp=1, radius=2.7, focal=4.2647)
PRESETS = {
    "ffhq": Preset(pivot=(0, 0, 0.2), **FACES),
    "heads": Preset(pivot=(0, 0, 0.2), **{**FACES, "samples": 12, "importance": 12}, usual=dict(  # 64 x 64 pixels, on a CPU
        batch=8, gamma=0.3, mirror=True, cbase=4096, cmax=128, latent=128, plane_resolution=64,
        neural_rendering_resolution_initial=16, neural_rendering_resolution_final=32,
        neural_rendering_resolution_fade_kimg=100, blur_fade_kimg=32, kimg=200, tick=1, snap=10, metrics="none", grid="8x4",
        workers=1)),
    "afhq": Preset(pivot=(0, 0, -0.06), **FACES),
    "shapenet": Preset(samples=64, importance=64, ray_start=0.1, ray_end=2.6, box_warp=1.6, radius=1.7, pivot=(0, 0, 0),
                       focal=1.7074, white_back=True),
    "custom": Preset(samples=48, importance=48),
}
POSITIVE = ("box_warp", "radius", "focal", "ray_end", "decoder_lr_mul")
PRESET_OPTIONS = ("ray_start", "ray_end", "box_warp", "radius", "pivot", "focal")

SUPERRESOLUTION = {128: "SuperresolutionHybrid2X", 256: "SuperresolutionHybrid4X", 512: "SuperresolutionHybrid8XDC"}
SMALLEST = 32  # pixels along a picture's side
AUGMENTATIONS = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac", "brightness", "contrast", "lumaflip", "hue",
                 "saturation")
TRANSFER_ADA_KIMG = 100  # faster than the 500 of a run from scratch
BATCH_OF_THE_PAPER = 32  # what durations in kimg are given for
NO_METRICS = "none"
AUTO = "auto"
RESUME_WORDS = ("auto", "none", "latest")
DETECTORS = ("inception", "vgg")

# What may change when a run is continued: none of it changes what is learnt.
FREE = ("total_kimg", "kimg_per_tick", "image_snapshot_ticks", "network_snapshot_ticks", "metrics", "detectors",
        "checkpoint_minutes", "data_loader_kwargs", "grid", "cudnn_benchmark", "device", "run_name")


# ------------------------------------------------------------------------------------------------ options

def _option(default: Any, help: str, low: Optional[float] = None, high: Optional[float] = None):
    return dataclasses.field(default=default, metadata=dict(help=help, low=low, high=high))


def _usual(default: Any, help: str, low: Optional[float] = None, high: Optional[float] = None):
    """An option whose default is the preset's, if that has one."""
    return dataclasses.field(default=None, metadata=dict(help=help, low=low, high=high, usual=default))


NEEDED: Any = None  # default of what must be given
REQUIRED = ("outdir", "cfg", "data", "batch", "gamma")
DASHED = ("batch_gpu", "map_depth", "mbstd_group", "c_scale", "sr_module", "init_from", "checkpoint_minutes", "channels_last")


def flag(name: str) -> str:
    """How the command spells an option (it takes - and _ alike)."""
    return "--" + (name.replace("_", "-") if name in DASHED else name)


@dataclasses.dataclass(frozen=True)
class Options:
    """A training run as it is asked for: official options by their official names, then this project's own.

    Raises ValueError, with one line in the command's words, where they contradict each other.
    """

    outdir: str = _option(NEEDED, "Where runs are kept, each in a folder of its own.")
    cfg: Literal["ffhq", "heads", "afhq", "shapenet", "custom"] = _option(NEEDED, "The kind of data: cameras, box, ray limits.")
    data: str = _option(NEEDED, "Training data: a zip or folder made by dataset_tool.py.")
    batch: int = _usual(NEEDED, "Pictures in a batch, over all ranks.", low=1)
    gamma: float = _usual(NEEDED, "Weight of R1.", low=0)
    gpus: Optional[int] = _option(None, "Ranks on this machine, one a GPU; by default those torchrun started, else one.", low=1)

    cond: bool = _option(True, "Use the labels of the data; false: cameras are drawn (--yaw_std, --pitch_std) and D sees none.")
    mirror: bool = _usual(False, "Also show every picture flipped, with its camera flipped.")
    aug: Literal["noaug", "ada", "fixed"] = _option("noaug", "Augment what D sees: not, adaptively, or as likely as --p.")
    freezed: int = _option(0, "Freeze that many of D's first layers.", low=0)
    p: float = _option(0.2, "Probability of --aug=fixed.", low=0, high=1)
    target: float = _option(0.6, "Target of --aug=ada.", low=0, high=1)
    batch_gpu: Union[int, str, None] = _option(
        None, "Pictures a rank takes at once; auto: as many as fit. By default its whole share.", low=1)
    cbase: int = _usual(32768, "Channels times resolution: width of the networks.", low=1)
    cmax: int = _usual(512, "Most channels.", low=1)
    glr: Optional[float] = _option(None, "Learning rate of G; by default 0.0025.", low=0)
    dlr: float = _option(0.002, "Learning rate of D.", low=0)
    map_depth: int = _option(2, "Layers of the mapping network.", low=1, high=16)
    mbstd_group: int = _option(4, "Pictures whose deviation D sees together.", low=1)
    desc: Optional[str] = _option(None, "A word for the end of the run's folder name.")
    metrics: str = _usual("fid50k_full", "Metrics at every snapshot, with commas; none: no metrics.")
    detector: Optional[str] = _option(None, "Their detectors: inception=FILE|URL,vgg=FILE|URL; by default NVIDIA's addresses.")
    kimg: int = _usual(25000, "Length of training, in thousand pictures.", low=1)
    tick: int = _usual(4, "Thousand pictures between status lines.", low=1)
    snap: int = _usual(50, "Ticks between snapshots.", low=1)
    seed: int = _option(0, "Start of all random numbers.", low=0, high=2**31 - 1)
    nobench: bool = _option(False, "Do not let cuDNN try out its algorithms.")
    workers: int = _usual(3, "Processes that read pictures.", low=0, high=128)
    neural_rendering_resolution_initial: int = _usual(64, "Rays along a side at the start.", low=8, high=1024)
    neural_rendering_resolution_final: Optional[int] = _usual(None, "And at the end of the fade.", low=8, high=1024)
    neural_rendering_resolution_fade_kimg: int = _usual(1000, "Length of that fade.", low=0)
    blur_fade_kimg: int = _usual(200, "Length of the fade of the blur, for batches of 32; others scale it.", low=0)
    gen_pose_cond: bool = _option(False, "Condition G on the camera.")
    c_scale: float = _option(1, "Factor of the camera in G's conditioning.", low=0)
    gpc_reg_prob: float = _option(0.5, "Probability of another picture's camera in the conditioning.", low=0, high=1)
    gpc_reg_fade_kimg: int = _option(1000, "Length of its fade from 1.", low=0)
    disc_c_noise: float = _option(0, "Noise on D's labels, in deviations.", low=0)
    sr_noise_mode: Literal["random", "const", "none"] = _option("none", "Noise in super-resolution.")
    resume_blur: bool = _option(False, "After --init-from: blur and fade the camera's swap again.")
    sr_num_fp16_res: int = _option(4, "Resolutions of super-resolution in half precision (on CUDA).", low=0)
    g_num_fp16_res: int = _option(0, "Of the backbone.", low=0)
    d_num_fp16_res: int = _option(4, "Of D.", low=0)
    style_mixing_prob: float = _option(0, "Probability of style mixing.", low=0, high=1)
    sr_module: Optional[str] = _option(None, "Class of super-resolution; by default by the resolution.")
    density_reg: float = _option(0.25, "Weight of the density's regularization.", low=0)
    density_reg_every: int = _option(4, "Batches between two of it.", low=1)
    density_reg_p_dist: float = _option(0.004, "Distance of the neighbours it compares.", low=0)
    reg_type: Literal["l1", "monotonic-detach", "monotonic-fixed"] = _option("l1", "Its kind.")
    decoder_lr_mul: float = _option(1, "Factor of the decoder's learning rate.", low=0)

    resume: str = _option("auto", "Continue a run exactly: auto (the same command's newest unfinished run, else a new one), "
                                  "none (always a new run), latest (the newest run in --outdir), a run's folder or a "
                                  "checkpoint.")
    init_from: Optional[str] = _option(None, "Begin with the weights of this network: FILE, URL or NAME.")
    faithful: bool = _option(False, "The original's plane axes, and its density points in [-1, 1]^3 whatever the box.")
    checkpoint_minutes: float = _option(15, "Minutes between checkpoints.", low=0)
    grid: Optional[str] = _usual(None, "Columns x rows of the picture grids, like 8x4; by default what fits 7680 x 4320.")
    tf32: bool = _option(False, "TF32 products on CUDA: faster, less exact.")
    bf16: bool = _option(False, "Networks (not the renderer) in bfloat16.")
    compile: bool = _option(False, "torch.compile the networks.")
    channels_last: bool = _option(False, "Networks in channels_last memory format.")
    device: str = _option("auto", "auto, cpu or cuda; with several ranks each has a GPU of its own.")
    ray_start: Optional[float] = _option(None, "Distance at which rays start.", low=0)
    ray_end: Optional[float] = _option(None, "Distance at which they end.", low=0)
    box_warp: Optional[float] = _option(None, "Side of the box around the world's origin that the planes cover.", low=0)
    radius: Optional[float] = _option(None, "Distance of the cameras from the world's origin.", low=0)
    pivot: Optional[str] = _option(None, "What they look at, like 0,0,0.2.")
    focal: Optional[float] = _option(None, "Focal length in picture widths.", low=0)
    yaw_std: float = _option(0.3, "Of --cond=false: deviation of the drawn cameras' yaw, in radians.", low=0)
    pitch_std: float = _option(0.15, "And of their pitch.", low=0)
    white_back: Optional[bool] = _option(None, "A white background; by default the preset's.")
    samples: Optional[int] = _option(None, "Samples along a ray; by default the preset's.", low=4, high=1024)
    importance: Optional[int] = _option(None, "Samples of the second pass.", low=0, high=1024)
    latent: int = _usual(512, "Size of z and w.", low=4)
    plane_resolution: int = _usual(256, "Pixels along a side of the planes.", low=8, high=1024)
    plane_channels: int = _option(32, "Channels of a plane.", low=3)
    decoder_width: int = _option(64, "Hidden units of the decoder.", low=4)

    def __post_init__(self):
        preset = PRESETS.get(self.cfg, Preset(0, 0))
        for field in dataclasses.fields(self):
            if "usual" in field.metadata and getattr(self, field.name) is None:
                object.__setattr__(self, field.name, preset.usual.get(field.name, field.metadata["usual"]))
            value = getattr(self, field.name)
            if value is None and field.name in REQUIRED:
                raise ValueError(f"{flag(field.name)} is needed")
            self._check_limits(field, value)
        if self.gen_pose_cond and not self.cond:
            raise ValueError("--gen_pose_cond needs cameras from the data: leave --cond true")
        if self.plane_resolution & (self.plane_resolution - 1):
            raise ValueError(f"--plane_resolution ({self.plane_resolution}) must be a power of two")
        lacking = [flag(name) for name in PRESET_OPTIONS if getattr(self, name) is None and getattr(preset, name) is None]
        if lacking:
            raise ValueError(f"--cfg=custom needs {', '.join(lacking)}: `dataset_tool.py --check` suggests them")
        view = self.view()
        if not view.ray_start < view.ray_end:
            raise ValueError(f"--ray_start ({view.ray_start:g}) must be less than --ray_end ({view.ray_end:g})")
        if self.grid is not None and min(_numbers(self.grid, "x", 2, "--grid", "8x4", int)) < 1:
            raise ValueError(f"--grid is {self.grid}: it has at least one column and one row")
        for name in POSITIVE:
            if getattr(self, name) == 0:
                raise ValueError(f"{flag(name)} is 0, and must be more")
        if self.desc is not None and ("/" in self.desc or "\0" in self.desc):
            raise ValueError(f"--desc is {self.desc!r}: it becomes part of a folder's name, so give a word without /")
        if self.init_from is not None and self.resume not in RESUME_WORDS:
            raise ValueError(f"--resume={self.resume} goes on with a run, --init-from begins one: give one of them")
        if self.resume_blur and self.init_from is None:
            raise ValueError("--resume_blur needs --init-from")

    @staticmethod
    def _check_limits(field: dataclasses.Field, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return
        low, high = field.metadata["low"], field.metadata["high"]
        if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
            limits = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
            raise ValueError(f"{flag(field.name)} is {value:g}, which is not {limits}")

    def view(self) -> Preset:
        """The preset with what was asked for instead."""
        own = {name: getattr(self, name) for name in (*PRESET_OPTIONS, "samples", "importance", "white_back")}
        if self.pivot is not None:
            own["pivot"] = tuple(_numbers(self.pivot, ",", 3, "--pivot", "0,0,0.2", float))
        return dataclasses.replace(PRESETS[self.cfg], **{name: value for name, value in own.items() if value is not None})


def _numbers(text: str, mark: str, count: int, name: str, example: str, kind: Callable) -> List[Any]:
    """The numbers of an option like 8x4. Raises ValueError."""
    try:
        numbers = [kind(part) for part in text.split(mark)]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{name} is {text!r}: write it like {example}")
    return numbers


# ------------------------------------------------------------------------------------------------ what follows

@dataclasses.dataclass(frozen=True)
class Facts:
    """What the data and the machine add to the options."""

    name: str  # of the data set
    items: int  # without mirrored ones
    resolution: int
    num_gpus: int  # ranks


def resolve(asked: Options, facts: Facts) -> EasyDict:
    """The whole configuration of a run, under the official names where there are any.

    Raises ValueError where options, data and ranks do not fit together.
    """
    view = asked.view()
    config = EasyDict(
        G_kwargs=_generator(asked, view, facts), D_kwargs=_discriminator(asked),
        G_opt_kwargs=_adam(0.0025 if asked.glr is None else asked.glr), D_opt_kwargs=_adam(asked.dlr),
        loss_kwargs=_loss(asked, view),
        data_loader_kwargs=_loader(asked.workers),
        training_set_kwargs=EasyDict(
            class_name="training.dataset.ImageFolderDataset", path=asked.data, use_labels=asked.cond, max_size=facts.items,
            xflip=asked.mirror, resolution=facts.resolution, random_seed=asked.seed),
        num_gpus=facts.num_gpus, batch_size=asked.batch, batch_gpu=_batch_gpu(asked, facts.num_gpus),
        metrics=[] if asked.metrics.lower() == NO_METRICS else [name.strip() for name in asked.metrics.split(",")],
        detectors=detectors(asked.detector),
        total_kimg=asked.kimg, kimg_per_tick=asked.tick, image_snapshot_ticks=asked.snap, network_snapshot_ticks=asked.snap,
        random_seed=asked.seed, ema_kimg=asked.batch * 10 / 32, ema_rampup=0.05 if asked.init_from is None else None,
        G_reg_interval=asked.density_reg_every if asked.density_reg > 0 else None, D_reg_interval=16,
        init_from=asked.init_from, augment_kwargs=None, augment_p=0.0, ada_target=None,
        ada_kimg=500 if asked.init_from is None else TRANSFER_ADA_KIMG,
        cond=asked.cond, camera_kwargs=None, checkpoint_minutes=asked.checkpoint_minutes,
        grid=None if asked.grid is None else _numbers(asked.grid, "x", 2, "--grid", "8x4", int),
        cudnn_benchmark=not asked.nobench, tf32=asked.tf32, bf16=asked.bf16, compile=asked.compile,
        channels_last=asked.channels_last, device=asked.device)
    if asked.aug != "noaug":
        config.augment_kwargs = EasyDict(class_name="training.augment.AugmentPipe", **dict.fromkeys(AUGMENTATIONS, 1))
    if asked.aug == "ada":
        config.ada_target = asked.target
    if asked.aug == "fixed":
        config.augment_p = asked.p
    if not asked.cond:
        config.camera_kwargs = EasyDict(
            yaw_std=asked.yaw_std, pitch_std=asked.pitch_std, radius=view.radius, pivot=list(view.pivot), focal=view.focal)
    config.run_name = _run_name(asked, facts)
    return config


def _generator(asked: Options, view: Preset, facts: Facts) -> EasyDict:
    if facts.resolution < SMALLEST:
        raise ValueError(f"{asked.data} holds pictures of {facts.resolution} pixels a side: {SMALLEST} is the least")
    width = dict(channel_base=asked.cbase, channel_max=asked.cmax, fused_modconv_default="inference_only")
    largest = max(asked.plane_resolution, facts.resolution)
    if asked.cbase < largest:
        raise ValueError(f"--cbase ({asked.cbase}) must be at least {largest}, or layers of that size have no channel")
    module = asked.sr_module
    if module is not None:
        _require_class(module)
    if module is None and facts.resolution in SUPERRESOLUTION:
        module = f"training.superresolution.{SUPERRESOLUTION[facts.resolution]}"
    if module is None:
        module = "training.superresolution.SuperresolutionGeneral"
    rendering = EasyDict(
        image_resolution=facts.resolution, disparity_space_sampling=False, clamp_mode="softplus", superresolution_module=module,
        c_gen_conditioning_zero=not asked.gen_pose_cond, gpc_reg_prob=asked.gpc_reg_prob if asked.gen_pose_cond else None,
        c_scale=asked.c_scale, superresolution_noise_mode=asked.sr_noise_mode, density_reg=asked.density_reg,
        density_reg_p_dist=asked.density_reg_p_dist, reg_type=asked.reg_type, decoder_lr_mul=asked.decoder_lr_mul,
        sr_antialias=True, depth_resolution=view.samples, depth_resolution_importance=view.importance,
        ray_start=view.ray_start, ray_end=view.ray_end, box_warp=view.box_warp, avg_camera_radius=view.radius,
        avg_camera_pivot=list(view.pivot))
    if view.white_back:
        rendering.white_back = True
    if view.focal != PRESETS[asked.cfg].focal:
        rendering.focal_length = view.focal
    generator = EasyDict(
        class_name="training.triplane.TriPlaneGenerator", z_dim=asked.latent, w_dim=asked.latent,
        mapping_kwargs=EasyDict(num_layers=asked.map_depth), rendering_kwargs=rendering,
        num_fp16_res=0 if asked.bf16 else asked.g_num_fp16_res,  # bfloat16 takes half precision's place
        sr_num_fp16_res=0 if asked.bf16 else asked.sr_num_fp16_res, sr_kwargs=EasyDict(width),
        conv_clamp=256 if asked.g_num_fp16_res > 0 else None, **width)
    if not asked.faithful:
        from training.volumetric_rendering.renderer import CORRECTED_AXES  # late: it takes PyTorch, which --help need not

        generator.plane_axes = [[list(axis) for axis in plane] for plane in CORRECTED_AXES]
    if asked.channels_last:
        generator.fp16_channels_last = generator.sr_kwargs.fp16_channels_last = True
    own = dict(plane_resolution=256, plane_channels=32, decoder_width=64)
    generator.update({name: getattr(asked, name) for name, official in own.items() if getattr(asked, name) != official})
    return generator


def _require_class(name: str) -> None:
    import torch

    try:
        found = get_obj_by_name(name)
    except (ImportError, AttributeError):
        found = None
    if not isinstance(found, type) or not issubclass(found, torch.nn.Module) or "superresolution" not in found.__module__:
        raise ValueError(f"--sr-module={name}: there is no such class of super-resolution; write it like "
                         "training.superresolution.SuperresolutionHybrid8XDC")


def _discriminator(asked: Options) -> EasyDict:
    block = EasyDict(freeze_layers=asked.freezed)
    if asked.channels_last:
        block.fp16_channels_last = True
    return EasyDict(
        class_name="training.dual_discriminator.DualDiscriminator", block_kwargs=block,
        mapping_kwargs=EasyDict(), epilogue_kwargs=EasyDict(mbstd_group_size=asked.mbstd_group), channel_base=asked.cbase,
        channel_max=asked.cmax, disc_c_noise=asked.disc_c_noise, num_fp16_res=0 if asked.bf16 else asked.d_num_fp16_res,
        conv_clamp=256 if asked.d_num_fp16_res > 0 else None)


def _adam(rate: float) -> EasyDict:
    return EasyDict(class_name="torch.optim.Adam", betas=[0.0, 0.99], eps=1e-8, lr=rate)  # Adam wants floats


def _loss(asked: Options, view: Preset) -> EasyDict:
    # What a transferred network has learnt already does not fade in again.
    again = asked.init_from is None or asked.resume_blur
    loss = EasyDict(
        class_name="training.loss.StyleGAN2Loss", r1_gamma=asked.gamma, filter_mode="antialiased",
        blur_init_sigma=10 if again else 0, blur_fade_kimg=asked.batch * asked.blur_fade_kimg / BATCH_OF_THE_PAPER,
        gpc_reg_prob=asked.gpc_reg_prob if asked.gen_pose_cond else None,
        gpc_reg_fade_kimg=asked.gpc_reg_fade_kimg if again else 0,
        dual_discrimination=True, neural_rendering_resolution_initial=asked.neural_rendering_resolution_initial,
        neural_rendering_resolution_final=asked.neural_rendering_resolution_final,
        neural_rendering_resolution_fade_kimg=asked.neural_rendering_resolution_fade_kimg,
        style_mixing_prob=asked.style_mixing_prob)
    if not asked.faithful:
        loss.density_extent = view.box_warp / 2
    return loss


def _loader(workers: int) -> EasyDict:
    loader = EasyDict(pin_memory=True, num_workers=workers)
    if workers > 0:
        loader.prefetch_factor = 2
    return loader


def _batch_gpu(asked: Options, num_gpus: int) -> Union[int, str]:
    """Pictures that a rank takes at once, or 'auto'. Raises ValueError where batches do not come out even."""
    if asked.batch % num_gpus:
        raise ValueError(f"--batch ({asked.batch}) must be a multiple of --gpus ({num_gpus})")
    share = asked.batch // num_gpus
    if asked.batch_gpu == AUTO:
        check_group(share, asked.mbstd_group)
        return AUTO
    chosen = share if asked.batch_gpu is None else asked.batch_gpu
    if share % chosen:
        raise ValueError(f"--batch ({asked.batch}) must be a multiple of --gpus x --batch-gpu ({num_gpus} x {chosen})")
    check_group(chosen, asked.mbstd_group)
    return chosen


def check_group(batch_gpu: int, group: int) -> None:
    """Raises ValueError where D's minibatch deviation has no whole groups."""
    if batch_gpu < group or batch_gpu % group:
        raise ValueError(f"a rank takes {batch_gpu} pictures at once, which must be a multiple of --mbstd-group ({group}): "
                         "change --batch, --batch-gpu or --mbstd-group")


def detectors(text: Optional[str]) -> Dict[str, str]:
    """kind -> file or URL, of a text like inception=FILE,vgg=URL. Raises ValueError."""
    found: Dict[str, str] = {}
    for part in text.split(",") if text else []:
        kind, mark, place = part.partition("=")
        if kind not in DETECTORS or not mark or not place:
            raise ValueError(f"--detector is {part!r}: write it like inception=FILE or vgg=FILE")
        if kind in found:
            raise ValueError(f"--detector={kind}=... is given twice: leave one out")
        found[kind] = place
    return found


def _run_name(asked: Options, facts: Facts) -> str:
    """A run's folder without its number."""
    name = f"{asked.cfg}-{facts.name}-gpus{facts.num_gpus}-batch{asked.batch}-gamma{asked.gamma:g}"
    return name if asked.desc is None else f"{name}-{asked.desc}"


def differing(stored: dict, asked: dict) -> Dict[str, Tuple[Any, Any]]:
    """Settings that differ and may not when a run goes on, with both values; a data set may have moved."""
    def flat(tree: dict, prefix: str = "") -> Dict[str, Any]:
        found = {}
        for key, value in tree.items():
            inside = flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
            found.update(inside)
        return found

    def kept(tree: dict) -> Dict[str, Any]:
        settings = flat({key: value for key, value in tree.items() if key not in FREE})
        for moved in ("training_set_kwargs.path", "training_set_kwargs.max_size"):  # what is in it is compared by itself
            settings.pop(moved, None)
        if tree.get("init_from") is not None:
            settings.pop("G_kwargs.plane_axes", None)  # those of the network
        if asked.get("batch_gpu") == AUTO:
            settings.pop("batch_gpu", None)
        return settings

    one, other = kept(stored), kept(asked)
    return {key: (one.get(key), other.get(key)) for key in sorted({*one, *other}) if one.get(key) != other.get(key)}
