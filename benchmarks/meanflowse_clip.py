"""Is MeanFlowSE's recipe regression in disguise? Clip of the derivative, coefficient and time
embedding, beside CFM and regression.

    python benchmarks/meanflowse_clip.py --data ../shared/data

For each time embedding ("log16": MeanFlowSE's log t at Fourier scale 16; "unit": t at scale 1) one
network learns plain CFM for `warmup_steps`, as MeanFlowSE's own curriculum begins (its MeanFlow
weight is 0 at first). From there every variant goes on for `steps` updates with the recipe's
objective (w 0.25, gap exponent 8 to 1, r = t in 10 %, t_eps 0.03), and so does plain CFM; the
regression network has the same network, samples and number of updates. The clip is scaled with the
root of the crop's bins, as |v| is: 5 belongs
to 256 x 256. Measured: share of the correction c (r - t) |du/dt| in |v|, before the clip and as
applied, on fixed validation crops; quality of one step on test utterances; and `noise_share`, the
variance of the one-step estimate over the prior's noise as a share of
its mean squared error: 0 is regression, 1/2 an exact sampler. Resumable: finished runs and rows are
kept.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from record import HERE, commit, machine
from torch import Tensor, nn

from mfdistill.audio.features import StftConfig
from mfdistill.checkpoint import load_tensors, write_json
from mfdistill.data import DataConfig, open_eval, open_train
from mfdistill.distill.batch import make_batch
from mfdistill.distill.inference import restore
from mfdistill.distill.logs import say
from mfdistill.distill.objectives import MeanFlowObjective, RegressionObjective
from mfdistill.distill.objectives.config import MeanFlowConfig
from mfdistill.distill.objectives.regression import estimate
from mfdistill.distill.settings import TrainConfig
from mfdistill.distill.setup import fit_network_config
from mfdistill.distill.train import train
from mfdistill.flow import interpolate, noise, solve, total_derivative
from mfdistill.metrics import score_utterances, summarise
from mfdistill.networks import CompactSizes, build_network
from mfdistill.networks.config import NCSNppConfig
from mfdistill.networks.delta import DeltaEmbedding, NoisinessEmbedding
from mfdistill.students import Student, sample
from mfdistill.tasks import TaskConfig, get_task

TIMES = (0.05, 0.2, 0.35, 0.5, 0.7, 0.9)
RECIPE = MeanFlowConfig(
    teacher_free=True,
    mf_first_order_coef=0.5,
    mf_weight_final=0.25,
    mf_warmup_frac=0.3,
    mf_skip_weight_thresh=0.05,
    mf_delta_gamma_start=8.0,
    t_eps=0.03,
    time_kind="start-gap",
)


@dataclass(frozen=True)
class Options:
    """Clip, coefficient and time embedding of MeanFlowSE's objective, measured."""

    data: str = "../shared/data"
    out: str = "runs/meanflowse-clip"
    network: Literal["compact", "ncsnpp"] = "compact"
    """Under 0.1 M parameters, or NCSN++ (0.2 M), at 8 kHz; 128 bins both."""
    sample_rate: int = 8000
    frames: int = 64
    """Of a training crop."""
    batch_size: int = 4
    warmup_steps: int = 800
    steps: int = 200
    lr: float = 2e-3
    limit: int = 12
    """Test utterances."""
    seed: int = 0
    shares_only: bool = False
    """Only the warm-up networks and their correction shares."""


@dataclass(frozen=True)
class Variant:
    name: str
    embedding: str
    config: MeanFlowConfig | None
    """None: the regression network."""


def variants(options: Options) -> list[Variant]:
    """All runs after the warm-up; those that answer most come first."""
    clip = 5 * (options.frames * 128 / 65536) ** 0.5
    kinds = {"clip": {"mf_jvp_clip": clip}, "none": {}, "tangent": {"tangent_normalise": True}}
    found = []
    for embedding in ("log16", "unit"):
        found.append(Variant(f"cfm-{embedding}", embedding, replace(RECIPE, mf_weight_final=0.0)))
        for c in (0.5, 1.0):
            for kind, change in kinds.items():
                found.append(
                    Variant(
                        f"{kind}-c{c:g}-{embedding}",
                        embedding,
                        replace(RECIPE, mf_first_order_coef=c, **change),
                    )
                )
    found.append(Variant("regression", "unit", None))
    first = (
        "regression",
        "cfm-log16",
        "clip-c0.5-log16",
        "none-c1-unit",
        "none-c1-log16",
        "clip-c1-unit",
    )
    return sorted(
        found,
        key=lambda variant: first.index(variant.name) if variant.name in first else len(first),
    )


def main(options: Options) -> None:
    """Train, measure, write ``results/meanflowse_clip.json`` and ``.png``."""
    torch.set_num_threads(1)
    rate = options.sample_rate
    stft = StftConfig(
        sample_rate=rate,
        n_fft=254,
        hop=64,
        window="hann",
        exponent=0.5,
        scale=0.15 * 2**0.5,
        drop_nyquist=False,
        normalized=False,
        # twice the scale squared, since half as many samples are summed: the level that 510 samples
        # have at 16 kHz
    )
    task = get_task(TaskConfig("enhance", stft, 0.487, 0.0, whole_hops=False, frame_multiple=16))
    data = DataConfig(source=options.data, crop_s=(options.frames - 1) * stft.hop / rate)
    context = Context(options, task, data)
    runs = [
        (f"warmup-{name}", Variant(f"warmup-{name}", name, replace(RECIPE, mf_weight_final=0.0)))
        for name in ("log16", "unit")
    ]
    for _, variant in runs:
        model, _ = fit(context, variant, options.warmup_steps, None)
        record(context, variant, {"shares": shares(context, model)})
    if options.shares_only:
        return
    for variant in variants(options):
        if variant.name in load_rows(context) and "pesq" in load_rows(context)[variant.name]:
            continue
        if variant.config is None:
            model, hours = fit(context, variant, options.warmup_steps + options.steps, None)
            record(context, variant, {"hours": hours, **quality(context, variant, model)})
        else:
            model, hours = fit(context, variant, options.steps, f"warmup-{variant.embedding}")
            record(
                context,
                variant,
                {
                    "hours": hours,
                    "shares": shares(context, model),
                    **quality(context, variant, model),
                },
            )
        figure(context)


@dataclass(frozen=True)
class Context:
    options: Options
    task: Any
    data: DataConfig

    @property
    def results(self) -> Path:
        suffix = "" if self.options.network == "compact" else f"_{self.options.network}"
        return HERE / "results" / f"meanflowse_clip{suffix}.json"


def build(context: Context, embedding: str, dataset: Any) -> Student:
    """A student from random weights with the named embedding of t and r - t."""
    scale, log = {"log16": (16.0, True), "unit": (1.0, False)}[embedding]
    torch.manual_seed(context.options.seed)
    if context.options.network == "ncsnpp":
        sizes = NCSNppConfig(
            nf=16,
            ch_mult=(1, 1, 2),
            num_res_blocks=1,
            image_size=128,
            attn_resolutions=(),
            fourier_scale=scale,
            time="log" if log else "linear",
            delta=True,
        )
        network = build_network("ncsnpp", sizes)
    else:
        small = CompactSizes(channels=24, blocks=2, embedding=64, filter_frames=3, filter_bins=1)
        network = build_network(
            "compact", fit_network_config(context.task, dataset, small, residual_std=0.7)
        )
        network.time_embedding = DeltaEmbedding(NoisinessEmbedding(16, scale, log), 64, scale)
    return Student.from_network(network)


def fit(context: Context, variant: Variant, steps: int, start: str | None) -> tuple[Student, float]:
    """Train (or find trained); the student with averaged weights, and hours."""
    options, folder = (
        context.options,
        Path(context.options.out) / context.options.network / variant.name,
    )
    dataset = open_train(context.data, True, context.options.sample_rate)
    student = build(context, variant.embedding, dataset)
    if start is not None:
        student.load_state_dict(load_tensors(folder.parent / start))
    path = context.task.path
    objective: nn.Module
    if variant.config is None:
        objective = Regression(student, path)
    else:
        objective = MeanFlowObjective(student, None, path, variant.config, options.seed)
    config = TrainConfig(
        out=str(folder),
        steps=steps,
        batch_size=options.batch_size,
        lr=options.lr if start is None else options.lr / 2,
        warmup=20,
        lr_end=0.1,
        weight_decay=0.0,
        ema_decay=0.99,
        seed=options.seed + (0 if start is None else 1),
        valid_every=0,
        save_every=50,
        log_every=20,
        resume=True,
    )
    data = open_train(replace(context.data, seed=config.seed), True, context.options.sample_rate)
    train(
        objective,
        data,
        context.task,
        config,
        model_config={"role": "student", "variant": variant.name},
    )
    student.load_state_dict(load_tensors(folder))
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))["training"]
    return student.eval(), saved["hours"]


class Regression(RegressionObjective):
    """The regression objective on a student's network, so that all runs hold the same tensors."""

    def __init__(self, student: Student, path: Any):
        super().__init__(student.network, path)
        self.model = student
        object.__setattr__(self, "bare", student.network)

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        error = estimate(self.bare, self.path, batch["cond"]) - batch["z_1"]  # type: ignore[arg-type]
        loss = error.square().sum(1).mean()
        return loss, {"loss": loss.detach()}


def shares(context: Context, student: Student) -> list[dict[str, float]]:
    """At each time, r halfway to 1: |du/dt| / |v| and (r - t) |du/dt| / |v|, exact derivatives,
    means over eight validation crops; and the factor of the clip.
    """
    task, options = context.task, context.options
    utterances = open_eval(context.data, "valid", True, task.sample_rate, limit=8)
    batch = make_batch(
        task, utterances.checks(round(context.data.crop_s * task.sample_rate), 1)[0], "cpu"
    )
    x, cond = batch["z_1"], batch["cond"]
    eps = noise(options.seed, torch.arange(len(x)), "shares", x.shape[1:])
    z_0, z_1 = task.path.end_points(x, cond, eps)
    v, rows = z_1 - z_0, []
    clip = 5 * (x.shape[-1] * x.shape[-2] / 65536) ** 0.5
    for time in TIMES:
        t = torch.full((len(x),), time)
        r = (t + 1) / 2
        _, j = total_derivative(
            lambda z, t, r: student(z, t, r, cond),
            interpolate(z_0, z_1, t),
            t,
            r,
            v,
            method="forward",
        )
        size, reference = j.flatten(1).norm(dim=1), v.flatten(1).norm(dim=1)
        factor = (clip / size).clamp(max=1)
        rows.append(
            {
                "t": time,
                "v_norm": float(reference.mean()),
                "jvp_norm": float(size.mean()),
                "unclipped": float(((r - t) * size / reference).mean()),
                "clip_factor": float(factor.mean()),
                "clipped": float(((r - t) * factor * size / reference).mean()),
            }
        )
    return rows


@torch.no_grad()
def quality(context: Context, variant: Variant, student: Student) -> dict[str, Any]:
    """Scores of one step (and of 5 Euler steps of the diagonal, or 2 of the average velocity) on
    test utterances, and ``noise_share``.
    """
    task, options = context.task, context.options
    utterances = open_eval(context.data, "test", True, task.sample_rate, limit=options.limit)
    regression = variant.config is None
    plain = regression or variant.name.startswith("cfm")

    def model(z_0: Tensor, cond: Any, steps: Any) -> Tensor:
        if regression:
            return estimate(student.network, task.path, cond)
        if plain:
            return solve(lambda z, t: student(z, t, t, cond), z_0, steps, "euler")
        return sample(student, z_0, cond, steps)

    found: dict[str, Any] = {}
    for steps in (1,) if regression else (1, 5) if plain else (1, 2):
        waves = [
            restore(task, model, item["degraded"], steps, options.seed, i)
            for i, item in enumerate(utterances)
        ]
        pairs = [
            (item["name"], wave.numpy(), item["clean"].numpy())
            for item, wave in zip(utterances, waves, strict=True)
        ]
        scores = summarise(score_utterances(pairs, ("pesq", "estoi", "sisdr"), task.sample_rate))
        found |= {
            key if steps == 1 else f"{key}_{steps}_steps": value for key, value in scores.items()
        }
    variance = error = 0.0
    for i in range(min(6, len(utterances))):
        item = utterances[i]
        gain = task.gain(item["degraded"][None])
        cond, x = (
            task.condition(item["degraded"][None] * gain),
            task.target(item["clean"][None] * gain),
        )
        draws = [noise(seed, torch.tensor([i]), "quality", x.shape[1:]) for seed in (1, 2)]
        a, b = (model(task.path.prior(cond, eps), cond, 1) for eps in draws)
        variance += float((a - b).square().mean()) / 2
        error += float((a - x).square().mean() + (b - x).square().mean()) / 2
    return {
        **found,
        "feature_mse": error / min(6, len(utterances)),
        "noise_share": variance / error,
    }


def load_rows(context: Context) -> dict[str, Any]:
    """Rows of the results that were made with these options."""
    if not context.results.is_file():
        return {}
    saved = json.loads(context.results.read_text(encoding="utf-8"))
    own = {
        key: value
        for key, value in asdict(context.options).items()
        if key not in ("data", "out", "shares_only")
    }
    if saved["options"] != own:
        say(f"{context.results.name}: was made with other options; begun again")
        return {}
    return saved["rows"]


def record(context: Context, variant: Variant, values: dict[str, Any]) -> None:
    """Add a row to the file of results."""
    rows = load_rows(context) | {variant.name: {"embedding": variant.embedding, **values}}
    own = {
        key: value
        for key, value in asdict(context.options).items()
        if key not in ("data", "out", "shares_only")
    }
    write_json(
        context.results, {"options": own, "machine": machine(), "commit": commit(), "rows": rows}
    )
    say(
        f"{variant.name}: "
        + ", ".join(
            f"{key} {value:.3g}" for key, value in values.items() if isinstance(value, float)
        )
    )


def figure(context: Context) -> None:
    """Correction shares of the warm-up networks over t, and one-step quality of all runs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = load_rows(context)
    drawn, (left, *others) = plt.subplots(1, 4, figsize=(17, 5))
    for name, color in (("log16", "tab:red"), ("unit", "tab:blue")):
        points = rows[f"warmup-{name}"]["shares"]
        for key, style in (("unclipped", "-"), ("clipped", "--")):
            left.semilogy(
                [p["t"] for p in points],
                [100 * p[key] for p in points],
                style,
                color=color,
                label=f"{name}, {key}",
            )
    left.set(
        xlabel="t (0: prior, 1: data)",
        ylabel="(r - t) |du/dt| in % of |v|",
        title="correction at c = 1, after the CFM warm-up",
    )
    left.legend()
    names = [
        variant.name
        for variant in variants(context.options)
        if "pesq" in rows.get(variant.name, {})
    ]
    for axes, (key, title) in zip(
        others,
        (("pesq", "PESQ"), ("sisdr", "SI-SDR, dB"), ("noise_share", "noise share")),
        strict=True,
    ):
        axes.barh(
            names,
            [rows[name][key] for name in names],
            color=["tab:red" if "log16" in name else "tab:blue" for name in names],
        )
        low = min(rows[name][key] for name in names)
        axes.set(title=f"{title}, one step", xlim=(0.95 * low if key != "noise_share" else 0, None))
        axes.invert_yaxis()
    drawn.tight_layout()
    drawn.savefig(context.results.with_suffix(".png"), dpi=110)
    plt.close(drawn)


if __name__ == "__main__":
    main(tyro.cli(Options))
