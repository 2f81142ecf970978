"""A voice that is understood: text to Mel on speech of espeak-ng, measured by the words that a
recogniser of these voices hears (recogniser.py).

    python benchmarks/text_to_mel.py --stages corpus train distil finish search   # 1.5 hours
    python benchmarks/text_to_mel.py --stages evaluate store
    python benchmarks/text_to_mel.py --stages say --text "The king sold my clocks." --voice dan

Four voices say sentences made from a grammar, with numbers, commas and questions; what is said is
known word by word, so errors are counted against the text and not against what a recogniser made
of a recording. Test sentences are of other words than the training's where the grammar has enough
of them, and none of them is a training sentence. All systems say a test sentence in the voice of a
prompt of a second and a half, in as many frames as the recording has. Every stage resumes where it
was stopped. Writes benchmarks/results/text_to_mel.json and .csv.

Columns: ``wer`` word errors of that recogniser against the text (read the rows against "recording"
and "recording, vocoded"), ``spksim`` similarity
to the prompt's voice, ``pitch_cents`` mean distance of the pitch to the recording's where both are
voiced, ``rtf`` of flow and vocoder on one core.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from recogniser import RATE, Recogniser, trained
from record import HERE, commit, digest, halve, hours_of, machine, precision
from stages import search_steps

from mfdistill.audio.io import read_audio, resample, write_audio
from mfdistill.audio.pitch import pitch_track
from mfdistill.checkpoint import write_json, write_text
from mfdistill.commands.options import Corpus, TaskOptions, ValidOptions
from mfdistill.commands.speech_train import SpeechOptions
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.student_distill import run as student_distill
from mfdistill.commands.student_finish import StudentFinish
from mfdistill.commands.student_finish import run as student_finish
from mfdistill.commands.synthesize import Synthesize
from mfdistill.commands.synthesize import run as synthesize
from mfdistill.commands.teacher_train import TeacherTrain
from mfdistill.commands.teacher_train import run as teacher_train
from mfdistill.data.espeak import Speech, synthesise
from mfdistill.data.texts import prepared
from mfdistill.distill.finishing.config import FinishConfig
from mfdistill.distill.inference import Steps
from mfdistill.distill.objectives.config import IntegralConfig
from mfdistill.distill.opening import Model, open_model
from mfdistill.distill.settings import TrainConfig
from mfdistill.distill.synthesis import synthesise as speak
from mfdistill.flow.config import IntervalConfig
from mfdistill.metrics import score_utterances
from mfdistill.metrics.summary import mean_ci95, paired_difference
from mfdistill.networks.frames_config import FramesSizes
from mfdistill.report import write_table
from mfdistill.search.config import SearchConfig

Stage = Literal["corpus", "train", "distil", "finish", "search", "evaluate", "store", "say"]
Voice = Literal["anna", "ben", "carla", "dan"]
MODEL = HERE / "models" / "text2mel-finished"
VOICES: dict[str, tuple[str, int, int]] = {  # espeak-ng's accent + variant, words per minute, pitch
    "anna": ("en-us+f3", 150, 55),
    "ben": ("en-us+m3", 150, 45),
    "carla": ("en-us+f2", 160, 50),
    "dan": ("en-us+m7", 145, 50),
}
SUBJECTS = (
    "the doctor", "my sister", "a young farmer", "the old captain", "our teacher", "the driver",
    "his brother", "the baker", "a tall woman", "the new student", "their neighbor", "the king",
    "a small boy", "the writer", "her husband", "the nurse", "the judge", "an angry man",
    "the police", "my father", "the singer", "a good friend", "the owner", "the guide",
)  # fmt: skip
VERBS = (
    "bought", "found", "sold", "carried", "painted", "opened", "lost", "wanted", "described",
    "counted", "brought", "moved", "washed", "noticed", "repaired", "collected", "borrowed",
    "followed", "watched", "cleaned", "remembered", "needed", "delivered", "kept",
)  # fmt: skip
THINGS = (
    "books", "horses", "bottles", "letters", "chairs", "boats", "apples", "windows", "pictures",
    "stones", "clocks", "tables", "shirts", "houses", "flowers", "papers", "coins", "boxes",
    "cars", "doors", "birds", "lamps", "plates", "songs",
)  # fmt: skip
COLOURS = (
    "red",
    "green",
    "heavy",
    "little",
    "broken",
    "yellow",
    "white",
    "dark",
    "cheap",
    "strange",
)
PLACES = (
    "in the market", "near the river", "behind the school", "at the station", "on the island",
    "under the bridge", "in the garden", "by the window", "at the hospital", "on the train",
    "across the street", "in the kitchen", "after the storm", "before dinner", "last winter",
    "in the morning",
)  # fmt: skip
PROMPT = "Good morning, my friend."
"""What the prompts say: with a test sentence no longer than the training's."""
ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()


@dataclass(frozen=True)
class Options:
    """Text to Mel on espeak-ng's speech."""

    stages: tuple[Stage, ...] = ("corpus", "train", "distil", "finish", "search", "evaluate")
    out: str = "runs/text2mel"
    """Folder of corpus and runs."""
    results: str = str(HERE / "results")
    vocoder: str = os.path.relpath(HERE / "models" / "vocode-finished")
    """A vocode model at 16 kHz with the same Mel spectrogram."""
    sentences: int = 900
    """Training sentences of each voice; 2.6 to 5.7 s each."""
    channels: int = 128
    blocks: int = 6
    attention: int = 2
    teacher_steps: int = 6000
    student_steps: int = 1000
    finish_steps: int = 800
    temperature: float = 0.0
    """Of the prior's noise when something is said, of every system: chosen on validation sentences
    among 0, 0.3, 0.667 and 1 for the teacher at 16 steps. Training draws all of the noise.
    """
    batch_size: int = 8
    crop_s: float = 5.3
    """The longest sentence; 1 % are longer and left out."""
    limit: int = 40
    """Test sentences, 10 of each voice."""
    mixed_precision: Literal["no", "bf16"] = field(default_factory=precision)
    text: str = "My sister found thirty yellow apples in the garden."
    """What 'say' says."""
    voice: Voice = "anna"


def main(options: Options) -> None:
    """The stages in their order."""
    run = {
        "corpus": corpus,
        "train": train,
        "distil": distil,
        "finish": finish,
        "search": search,
        "evaluate": evaluate,
        "store": store,
        "say": say,
    }
    for stage in options.stages:
        run[stage](options)


# ---- what is said


def number_words(value: int) -> str:
    """A number below 1000 as espeak-ng's American voices say it."""
    if value < 20:
        return ONES[value]
    if value < 100:
        return TENS[value // 10] + (f" {ONES[value % 10]}" if value % 10 else "")
    rest = f" {number_words(value % 100)}" if value % 100 else ""
    return f"{ONES[value // 100]} hundred{rest}"


def sentence(rng: random.Random) -> tuple[str, str]:
    """A text with figures and punctuation, and the words that are said."""
    who, did, what, where = (rng.choice(words) for words in (SUBJECTS, VERBS, THINGS, PLACES))
    count = rng.choice((rng.randint(2, 20), rng.randint(21, 99), rng.randint(100, 999)))
    colour = rng.choice(COLOURS)
    form = rng.randrange(6)
    figures, said = str(count), number_words(count)
    text = (
        f"{who} {did} {{n}} {colour} {what} {where}.",
        f"{where}, {who} {did} the {colour} {what}.",
        f"did {who} see {{n}} {what} {where}?",
        f"{who} {did} the {what}, but {rng.choice(SUBJECTS)} {rng.choice(VERBS)} the {rng.choice(THINGS)}.",
        f"no, {who} never {did} {colour} {what} {where}!",
        f"{who}, who {did} {{n}} {what}, was {where}.",
    )[form]
    shown = text.format(n=figures)
    words = "".join(c for c in text.format(n=said) if c.isalpha() or c in " '").lower()
    return shown[0].upper() + shown[1:], " ".join(words.split())


def texts(count: int, seed: int, taken: set[str]) -> list[tuple[str, str]]:
    """Sentences that are not ``taken``, which they are added to."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        made = sentence(rng)
        if made[0] not in taken:
            taken.add(made[0])
            found.append(made)
    return found


def spoken(options: Options) -> dict[str, tuple[str, str]]:
    """Text and words of every recording, by its path in the corpus."""
    taken: set[str] = set()
    found = {}
    for split, count, seed in (("test", 11, 1), ("valid", 6, 2), ("train", options.sentences, 3)):
        for number, name in enumerate(VOICES):
            wanted = texts(count, 100 * seed + number, taken)
            if split == "test":
                wanted[-1] = PROMPT, PROMPT.lower().replace(",", "").rstrip(".")
            for k, both in enumerate(wanted):
                found[f"clean/{split}/{name}/{name}_{split}_{k:04d}.flac"] = both
    return found


def corpus(options: Options) -> None:
    """``corpus/clean/{train,valid,test}/<voice>/*.flac`` and ``transcripts.tsv``."""
    root = Path(options.out) / "corpus"
    if (root / "transcripts.tsv").is_file():
        return
    said = {path: (path.split("/")[2], text) for path, (text, _) in spoken(options).items()}
    espeak({root / path: both for path, both in said.items()}, root / "raw")
    lines = [f"{path}\t{name}\t{text}\n" for path, (name, text) in said.items()]
    write_text(root / "transcripts.tsv", "path\tspeaker\ttext\n" + "".join(lines))


def espeak(wanted: Mapping[Path, tuple[str, str]], raw: Path) -> None:
    """Recordings of (voice, text), by their files; ``raw`` is a folder for a while."""
    jobs: dict[Path, Speech] = {}
    for path, (name, text) in wanted.items():
        voice, rate, pitch = VOICES[name]
        jobs[path] = {
            "file": f"{len(jobs)}.raw", "voice": voice, "text": text, "rate_wpm": rate,
            "pitch": pitch, "pitch_range": 50,
        }  # fmt: skip
    raw.mkdir(parents=True, exist_ok=True)
    rate = synthesise(list(jobs.values()), raw)
    for path, job in jobs.items():
        wave = np.fromfile(raw / job["file"], dtype="<i2").astype(np.float32) / 32768
        loud = np.flatnonzero(np.abs(wave) > 1e-3)
        # 50 ms of silence on both sides: espeak-ng ends with half a second
        ends = max(0, loud[0] - rate // 20), loud[-1] + rate // 20
        wave = wave[ends[0] : ends[1]]
        wave = wave * min(0.06 / float(np.sqrt((wave**2).mean())), 0.9 / float(np.abs(wave).max()))
        write_audio(path, wave.astype(np.float32), rate, subtype="PCM_16")
        (raw / job["file"]).unlink()
    raw.rmdir()


# ---- trainings


def settings(options: Options) -> TrainConfig:
    """What all runs share."""
    return TrainConfig(
        batch_size=options.batch_size, warmup=200, mixed_precision=options.mixed_precision,
        valid_every=0, save_every=500, log_every=100, resume=True,
    )  # fmt: skip


def data(options: Options) -> Corpus:
    return Corpus(source=str(Path(options.out) / "corpus"), crop_s=options.crop_s)


def train(options: Options) -> None:
    """The teacher, on phonemes."""
    teacher_train(
        TeacherTrain(
            task="text2mel", data=data(options), task_options=TaskOptions(temperature=options.temperature),
            training=replace(
                settings(options), out=str(Path(options.out) / "teacher"), steps=options.teacher_steps,
                lr=1.5e-3, ema_decay=0.9995,
            ),
            valid=ValidOptions(valid_files=8, valid_metrics=()),
            speech=SpeechOptions(text="phonemes", language="en-us", prompt_s=2.0, vocoder=options.vocoder),
            frames=FramesSizes(channels=options.channels, blocks=options.blocks, attention=options.attention),
        )
    )  # fmt: skip


def distil(options: Options) -> None:
    """The student: midpoint steps of the teacher, half of the intervals are the whole flow."""
    student_distill(
        StudentDistill(
            teacher=str(Path(options.out) / "teacher"), data=data(options),
            training=replace(
                settings(options), out=str(Path(options.out) / "student"), steps=options.student_steps,
                batch_size=4, lr=5e-4, warmup=50, ema_decay=0.998,
            ),
            valid=ValidOptions(valid_files=8, valid_metrics=()),
            integral=IntegralConfig(
                targets_per_rollout=3,
                interval=IntervalConfig(p_full=0.5),
                teacher_precision="run",
            ),
        )
    )  # fmt: skip


def finish(options: Options) -> None:
    """The student's two steps and one on the recordings themselves: L1 of Mel spectrograms."""
    student_finish(
        StudentFinish(
            student=str(Path(options.out) / "student"), data=data(options),
            training=replace(
                settings(options), out=str(Path(options.out) / "finished"), steps=options.finish_steps,
                lr=5e-4, warmup=20, ema_decay=0.995,
            ),
            finish=FinishConfig(nfe=(2, 1), temperature=options.temperature),
            valid=ValidOptions(valid_files=8, valid_metrics=()),
        )
    )  # fmt: skip


def search(options: Options) -> None:
    """O3S at 2 and 3 evaluations, by the distance to the teacher on validation sentences."""
    folder = Path(options.out) / "student"
    wanted = SearchConfig(
        metric="teacher-mse", iterations=6, starts=("uniform",),
        teacher=str(Path(options.out) / "teacher"),
    )  # fmt: skip
    search_steps(folder, data(options), 24, wanted)


# ---- what is understood


System = tuple[str, int, Model, Steps]
"""Label, evaluations, model, steps."""
ROLES = ("teacher", "student", "finished")


def systems(teacher: Model, student: Model, finished: Model) -> list[System]:
    """What is compared."""
    rows: list[System] = [(f"teacher-{n}", n, teacher, n) for n in (32, 8, 4, 2, 1)]
    rows += [(f"student-{n}", n, student, n) for n in (1, 2, 3)]
    rows += [(f"finished-{n}", n, finished, n) for n in (1, 2)]
    for nfe, times in sorted((student.config.get("schedules") or {}).items()):
        rows.append((f"student-{nfe}-o3s", int(nfe), student, [float(t) for t in times]))
    return rows


def evaluate(options: Options) -> None:
    """The table: a row per system, over the same sentences, prompts and noise."""
    out = Path(options.out)
    root = out / "corpus"
    both = spoken(options)
    said = {path: text for path, (text, _) in both.items()}
    words = {path: own for path, (_, own) in both.items()}
    recogniser = listener(options, words)
    models = [open_model(out / name) for name in ROLES]
    tried, teacher = systems(*models), models[0]
    key = [digest(out / name / "model.safetensors")[:16] for name in ROLES]
    store = out / "measured.jsonl"
    known = [json.loads(line) for line in store.read_text().splitlines()] if store.is_file() else []
    rows = [row for row in known if row["key"] == key]
    done = {row["path"] for row in rows}
    # the last recording of each voice is the prompt of its others
    voices = {name: sorted(p for p in words if f"/test/{name}/" in p) for name in VOICES}
    tests = [
        p for k in range(options.limit // len(VOICES)) for p in (v[k] for v in voices.values())
    ]
    with store.open("a") as log:
        for index, path in enumerate(tests):
            if path in done:
                continue
            prompt = voices[path.split("/")[2]][-1]
            for row in measure(
                root,
                path,
                prompt,
                said,
                words[path],
                index,
                tried,
                teacher,
                recogniser,
            ):
                rows.append(row | {"key": key, "path": path})
                log.write(json.dumps(rows[-1]) + "\n")
            log.flush()
    record(options, rows, tried)


@torch.no_grad()
def measure(
    root: Path, path: str, prompt: str, said: Mapping[str, str], words: str, index: int,
    tried: Sequence[System], teacher: Model, recogniser: Recogniser,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The rows of one sentence: recording, recording through the vocoder, every system."""
    task: Any = teacher.task
    rate, hop = task.sample_rate, task.config.stft.hop
    clean, voice = (torch.from_numpy(read_audio(root / p, rate)) for p in (path, prompt))
    n = len(clean) // hop
    track = pitch_track(clean, task.config.stft, n)

    def scores(label: str, wave: torch.Tensor, spent_s: float | None) -> dict[str, Any]:
        heard = pitch_track(wave, task.config.stft, n)
        both = (heard > 0) & (track > 0)
        cents = (
            (1200 * (heard[both] / track[both]).log2().abs()).mean() if both.any() else torch.nan
        )
        row = score_utterances(
            [(path, wave.numpy(), clean.numpy(), voice.numpy())], ("spksim",), rate
        )[0]
        return {
            "label": label, "wer": word_errors(recogniser, wave.numpy(), rate, words), "spksim": row["spksim"],
            "pitch_cents": float(cents), "seconds": len(wave) / rate, "spent_s": spent_s,
        }  # fmt: skip

    yield scores("recording", clean, None)
    gain = task.gain(clean[None])
    vocoded = task.waveform(task.target(clean[None] * gain), len(clean))[0] / gain[0]
    yield scores("recording, vocoded", vocoded, None)
    usual = [
        float(task.usual(text).sum()) for text in prepared([said[prompt], said[path]], task.config)
    ]
    # as many frames as the recording has: pace is not what is compared
    paced = (1 + len(voice) // hop) * usual[1] / usual[0]
    for label, _, model, steps in tried:
        began = time.process_time()
        speech = speak(
            model, voice, text=said[path], prompt_text=said[prompt], speed=paced / n, steps=steps,
            seed=index,
        )  # fmt: skip
        yield scores(label, speech.wave, time.process_time() - began)


def listener(options: Options, words: Mapping[str, str]) -> Recogniser:
    """Trained on the recordings that the teacher was trained on; stays in ``out``."""
    out = Path(options.out)
    recordings = {out / "corpus" / path: own for path, own in words.items() if "/train/" in path}
    return trained(out / "recogniser.safetensors", recordings)


def word_errors(recogniser: Recogniser, wave: np.ndarray, rate: int, words: str) -> float:
    """Substituted, missing and added words over the words of the text."""
    import jiwer

    return float(jiwer.wer(words, recogniser.words(resample(wave, rate, RATE))))


def store(options: Options) -> None:
    """The finished student in half precision among the models, with the vocoder beside it as its
    own.
    """
    halve(Path(options.out) / "finished", MODEL, HERE / "models" / "vocode-finished")


def say(options: Options) -> None:
    """``said.wav``: a text by the stored student, in the voice of a prompt that espeak-ng says."""
    out = Path(options.out)
    prompt = out / f"{options.voice}.wav"
    espeak({prompt: (options.voice, PROMPT)}, out / "raw")
    synthesize(
        Synthesize(
            str(MODEL), prompt=str(prompt), prompt_text=PROMPT, text=options.text,
            out=str(out / "said.wav"), overwrite=True,
        )
    )  # fmt: skip


def record(options: Options, rows: Sequence[dict[str, Any]], tried: Sequence[System]) -> None:
    """The table, and the differences that the aims are about."""
    out = Path(options.out)
    nfe = {label: count for label, count, _, _ in tried}
    by: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["label"], []).append(row)
    table = []
    for label, own in by.items():
        line: dict[str, Any] = {"system": label, "nfe": nfe.get(label, 0), "n": len(own)}
        for column in ("wer", "spksim", "pitch_cents"):
            mean, half, _ = mean_ci95([row[column] for row in own])
            line |= {column: mean, f"{column}_ci95": half}
        spent = [row["spent_s"] / row["seconds"] for row in own if row["spent_s"] is not None]
        table.append(line | {"rtf": float(np.median(spent)) if spent else None})
    pairs = [("recording, vocoded", "recording"), ("teacher-32", "recording, vocoded")]
    pairs += [(label, "teacher-32") for label in by if label.startswith(("student", "finished"))]
    pairs += [(f"student-{n}-o3s", f"student-{n}") for n in (2, 3)]
    differences = {
        f"{a} - {b}": dict(
            zip(
                ("mean", "ci95", "n"),
                paired_difference(named(by[a]), named(by[b]), "wer"),
                strict=True,
            )
        )
        for a, b in pairs
        if a in by and b in by
    }
    stem = Path(options.results) / "text_to_mel"
    write_table(stem, table)
    write_json(stem.with_suffix(".json"), {
        "rows": table, "wer_differences": differences,
        "hours": {name: hours_of(out / name) for name in ROLES},
        "checkpoint_sha256": {name: digest(out / name / "model.safetensors") for name in ROLES},
        "options": {key: value for key, value in vars(options).items() if key not in ("out", "results", "stages")},
        "commit": commit(), "machine": machine(),
    })  # fmt: skip


def named(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the name that pairs them."""
    return [row | {"name": row["path"]} for row in rows]


if __name__ == "__main__":
    main(tyro.cli(Options))
