"""Recipes of distillation for other systems: every number with the paper's beside it, what it
costs, what it needs, what to watch, and how the result is served. Without torch.

Costs are arithmetic and not measurements: network evaluations of an update times their FLOPs, over
what a card really does; attention between frames, data and validation are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.settings import TrainConfig
from mfdistill.errors import UserError

NOT_TOLD = "not published"
USABLE_FLOPS = 100e12
"""What a card of the A100's class does in bf16 on such networks: a third of its 312e12."""
PASSES_OF_UPDATE = 3
"""A forward and a backward pass of the student, in forward passes."""


@dataclass(frozen=True)
class Value:
    """A setting: IntMeanFlow's (arXiv 2510.07979) beside ours."""

    setting: str
    paper: str
    ours: str
    why: str


@dataclass(frozen=True)
class Recipe:
    """A distillation of one system."""

    name: str
    kinds: tuple[str, ...]
    """Of the teacher."""
    nfe: int
    integral: IntegralConfig
    training: TrainConfig
    values: tuple[Value, ...]
    parameters_m: float
    """Of the network, in millions."""
    branches: int
    """2 where the teacher is guided."""
    batch_frames: int
    """Mel frames of an update, padding included: --tts.batch-frames."""
    recompute: bool
    data: str
    watch: str
    serve: str

    @property
    def passes(self) -> float:
        """Forward passes for each frame of an update: the teacher's rollout, and the student's
        update.
        """
        stages = {"euler": 1, "midpoint": 2}[self.integral.solver]
        teacher = self.integral.substeps * stages * self.branches
        return teacher + PASSES_OF_UPDATE + self.recompute

    @property
    def gpu_hours(self) -> float:
        """Of all updates: 2 FLOPs for each parameter, frame and pass."""
        flops = 2e6 * self.parameters_m * self.batch_frames * self.passes * self.training.steps
        return flops / USABLE_FLOPS / 3600


_MIDPOINT = Value(
    "targets", "16 Euler steps in [t, r]", "4 midpoint steps",
    "half the evaluations; on a mixture of Gaussians 8 evaluations of midpoint are as near as 32 of Euler",
)  # fmt: skip
_LR = Value("learning rate", NOT_TOLD, "2e-5", "that of F5-TTS's and LITs's fine-tuning")
_STEPS = Value(
    "updates", NOT_TOLD, "10000", "a starting point; watch mel_error in log.jsonl and stop"
)
_TIMES = Value("distribution of (t, r)", NOT_TOLD, "two sorted uniform draws", "no end is favoured")
_TRAINING = TrainConfig(out="runs/student", steps=10000, batch_size=32, lr=2e-5, warmup=500)
_SUBSTEPS = IntegralConfig(substeps=4, solver="midpoint")


def _f5(nfe: int, watch: str) -> Recipe:
    strength = Value(
        "guidance", "scale 3.0", "strength 2 (scale 3)", "the same in F5-TTS's notation"
    )
    return Recipe(
        f"f5-nfe{nfe}", ("f5", "f5-unett"), nfe, _SUBSTEPS, _TRAINING,
        (Value("steps", "3, with O3S", str(nfe), "os3-search --nfe places them"), _MIDPOINT, strength, _LR, _STEPS, _TIMES),
        337, 2, 4000, True,
        "speech with texts in the languages and of the speakers that are served, 10 h or more; 24 kHz",
        watch,
        "mfdistill export --layout f5, and serve_f5 in the program that runs F5-TTS (docs/serving.md)",
    )  # fmt: skip


def _cosyvoice(nfe: int, watch: str) -> Recipe:
    strength = Value("guidance", NOT_TOLD, "strength 0.7", "CosyVoice's own inference_cfg_rate")
    data = Value(
        "data",
        "LibriTTS",
        "yours",
        "CosyVoice's 170 000 h are not public; distil on the voices that are served",
    )
    return Recipe(
        f"cosyvoice-nfe{nfe}", ("cosyvoice2", "cosyvoice3"), nfe, _SUBSTEPS, _TRAINING,
        (Value("steps", "1 (CosyVoice 2)", str(nfe), "Chatterbox-Turbo runs with 2"), _MIDPOINT, strength, _LR, _STEPS, _TIMES, data),
        71, 2, 4000, False,
        "speech with CosyVoice's speech tokens and x-vectors (its tools extract them); 24 kHz",
        watch,
        "mfdistill export --layout cosyvoice or chatterbox, and what docs/serving.md says of your program",
    )  # fmt: skip


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _f5(3, "words in long texts; the prompt's voice: --metric spksim beside teacher-mse"),
        _f5(2, "as for 3 steps; place them with O3S, equal steps lose most here"),
        _f5(1, "buzzing and lost consonants: one step cannot follow every phase of the flow; compare with 2"),
        _cosyvoice(2, "streams: half of the batches are in streaming form (--tts.streaming-share)"),
        _cosyvoice(1, "noise in pauses; the fixed noise buffer of the program is one of the noises learnt"),
        Recipe(
            "matcha-nfe2", ("matcha",), 2, _SUBSTEPS, _TRAINING,
            (
                Value("steps", "not in the paper", "2", "Matcha-TTS itself is heard at 2 to 10 Euler steps"), _MIDPOINT,
                Value("guidance", "not in the paper", "none", "it was trained without a null condition"), _LR, _STEPS, _TIMES,
            ),
            18, 1, 4000, False,
            "texts as features mu of Matcha-TTS's own encoder, with --tts.mel-mean and --tts.mel-std; 22.05 kHz",
            "its sampler's temperature 0.667 is below the 1 that is learnt: try both",
            "load_student and sample in Python; no program of its own takes a student of two times yet",
        ),
    )
}  # fmt: skip


PRESETS = {"f5": RECIPES["f5-nfe3"].kinds, "cosyvoice2": RECIPES["cosyvoice-nfe1"].kinds}
"""Kinds of teacher that a text-to-speech preset is for."""


def preset_for(kind: str | None) -> str | None:
    """The preset for teachers of a kind, if there is one."""
    return next((name for name, kinds in PRESETS.items() if kind in kinds), None)


def recipe_fields(name: str) -> dict[str, object]:
    """Fields of ``StudentDistill`` that a recipe sets.

    Raises:
        UserError: no such recipe.
    """
    if name not in RECIPES:
        raise UserError(f"--recipe {name}: this version has {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    return {
        "recipe": name,
        "nfe": recipe.nfe,
        "integral": recipe.integral,
        "training": recipe.training,
        "checkpoint_activations": recipe.recompute,
    }


def check_recipe(name: str | None, kind: str | None, teacher: str) -> None:
    """See that a recipe is for a teacher.

    Raises:
        UserError: one of another system.
    """
    if name is None or kind in RECIPES[name].kinds:
        return
    fitting = [own for own, recipe in RECIPES.items() if kind in recipe.kinds]
    instead = f"take {' or '.join(fitting)}" if fitting else "leave it out"
    raise UserError(
        f"--recipe {name}: is for teachers of kind {' or '.join(RECIPES[name].kinds)}, and --teacher "
        f"{teacher} is {f'of kind {kind}' if kind else 'of another'}; {instead}"
    )
