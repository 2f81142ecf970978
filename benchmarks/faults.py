"""What happens to a run when something goes wrong: kills, damaged files, a full or read-only disk,
bad recordings, a dead process.

``python benchmarks/faults.py`` makes a minute corpus, breaks things in every way of the table, and
writes ``results/faults.json`` and the table in ``docs/bad-input.md``. A fault counts as survived
where the program says in one line what is wrong, damages nothing that was there, and comes, once
the fault is gone, to the very bits of an undisturbed run. Linux only (limits of file sizes, fork).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import record
import soundfile

from mfdistill.checkpoint import load_config, load_tensors, write_json
from mfdistill.data import DataConfig, open_train
from mfdistill.data.training import TrainSet
from mfdistill.distill import state
from mfdistill.errors import UserError

RATE = 8000
TINY = (
    *("--network.channels", "4", "--network.blocks", "1", "--network.embedding", "8"),
    *("--batch-size", "2", "--warmup", "1", "--log-every", "1", "--valid-files", "0"),
)


@dataclass
class Row:
    """A line of the table."""

    fault: str
    tried: int
    survived: int
    steps_lost: str
    said: str
    part: str = ""


@dataclass(frozen=True)
class Result:
    """Of one command."""

    code: int
    text: str
    seconds: float

    @property
    def line(self) -> str:
        """The program's last word, without its name."""
        lines = [line for line in self.text.splitlines() if line.startswith("mfdistill")]
        return lines[-1].split(": ", 1)[-1] if lines else ""


def make_corpus(root: Path, files: int = 44) -> Path:
    """Clean speech without splits: gliding harmonics in bursts, 1 s each."""
    root.mkdir(parents=True)
    time_s = np.arange(RATE) / RATE
    for seed in range(files):
        rng = np.random.default_rng(seed)
        pitch = 110 + 15 * (seed % 7) + 20 * np.sin(4 * np.pi * time_s)
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        wave = sum(np.sin(k * phase) / k for k in range(1, 12))
        wave = wave * np.maximum(0, np.sin(6 * np.pi * time_s + seed)) ** 0.5
        noisy = 0.1 * wave + 0.002 * rng.standard_normal(RATE)
        soundfile.write(root / f"{seed:02}.wav", noisy.astype(np.float32), RATE)
    return root


class Command:
    """A command in a process of its own, forked from this one, which has imported everything."""

    def __init__(self, arguments: Sequence[str], setting: Callable[[], None] | None = None) -> None:
        self.told, target = os.pipe()
        self.began = time.monotonic()
        self.process = os.fork()
        if self.process == 0:
            code = 70
            try:
                os.close(self.told)
                os.dup2(target, 1)
                os.dup2(target, 2)
                if setting is not None:
                    setting()
                from mfdistill.cli import main

                code = main(list(arguments))
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(target)

    def wait(self) -> Result:
        """Until it ends by itself."""
        with os.fdopen(self.told, encoding="utf-8", errors="replace") as told:
            text = told.read()
        status = os.waitpid(self.process, 0)[1]
        return Result(os.waitstatus_to_exitcode(status), text, time.monotonic() - self.began)

    def kill(self, out: Path, log: int | None, step: int, after_s: float) -> Result:
        """SIGKILL ``after_s`` seconds after ``step`` is in the log of ``out``, if it still runs.

        Args:
            log: number of the log's file before this process cut it to what was saved.
        """
        gone = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while os.waitid(os.P_PID, self.process, gone) is None:
            if step == 0 or (file_number(out) not in (None, log) and steps_done(out) >= step):
                break
            time.sleep(0.005)
        time.sleep(after_s)
        os.kill(self.process, signal.SIGKILL)  # not yet waited for: the number is still its own
        return self.wait()


def run(arguments: Sequence[str], setting: Callable[[], None] | None = None) -> Result:
    """One command to its end."""
    return Command(arguments, setting).wait()


def same(one: Path, other: Path) -> bool:
    """Whether two runs hold the same bits, in the model and in all of the state."""
    for place in ("model", "raw", "ema", "optimizer"):
        inside = "" if place == "model" else state.FOLDER
        a, b = (load_tensors(folder / inside / f"{place}.safetensors") for folder in (one, other))
        if a.keys() != b.keys() or not all(a[key].equal(b[key]) for key in a):
            return False
    return True


def steps_done(out: Path) -> int:
    """Of a run, as far as its log tells."""
    steps = [0]
    file = out / "log.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # cut short by the kill
        steps.append(row["step"])
    return max(steps)


def file_number(out: Path) -> int | None:
    file = out / "log.jsonl"
    return file.stat().st_ino if file.is_file() else None


def kills(name: str, start: list[str], out: Path, whole: Path, steps: int, tries: int) -> Row:
    """Kill a run ``tries`` times, while it starts and at any moment of a few steps and saves;
    continue it every time, and compare its end.
    """
    draw, lost, told, done = random.Random(tries), [], 0, 0
    for number in range(tries):
        before = state.find_state(out) if out.is_dir() else None
        at = before.info["step"] if before else 0
        # every fifth while it starts
        target = 0 if number % 5 == 4 else min(at + draw.randint(1, 7), steps - 1)
        process = Command([*start, "--out", str(out), "--resume"])
        process.kill(out, file_number(out), target, draw.uniform(0, 0.3))
        done, found = steps_done(out), state.find_state(out) if out.is_dir() else None
        lost.append(max(0, done - (found.info["step"] if found else 0)))
        told += found is None or not found.damaged
    final = run([*start, "--out", str(out), "--resume"])
    exact = final.code == 0 and same(whole, out)
    middle = sorted(lost)[len(lost) // 2]
    return Row(
        f"SIGKILL at any moment of {name}, then --resume",
        tries,
        told if exact else 0,
        f"{middle} (at most {max(lost)}; saves every 5)",
        "resumed at step N; the end is bit for bit that of an undisturbed run"
        if exact
        else final.text[-300:],
    )


def damages(data: bytes, draw: random.Random) -> list[tuple[str, bytes]]:
    """Five truncations and five flipped bits."""
    found = [("cut", data[: len(data) * k // 5]) for k in range(5)]
    for _ in range(5):
        bit, flipped = draw.randrange(8 * len(data)), bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        found.append(("flip", bytes(flipped)))
    return found


def loads(out: Path) -> str:
    """What ``info`` and a loader say of a model folder; "" if nothing is wrong."""
    from mfdistill.commands.info import describe

    said = []
    for use in (lambda: describe(str(out)), lambda: (load_config(out), load_tensors(out))):
        try:
            use()
        except UserError as error:
            said.append(str(error))
    return said[0] if len(said) == 2 else ""


def resumes(out: Path) -> str:
    """What is said of the newest state; "" if it is taken to be whole or none is found."""
    found = state.find_state(out)
    return found.damaged[0] if found is not None and found.damaged else ""


def damage(out: Path) -> list[Row]:
    """Every file of a model and of its newest state, cut at five places and flipped at five."""
    draw, rows = random.Random(0), []
    newest = load_step(out / state.FOLDER)
    older = load_step(out / f"{state.FOLDER}.1")
    model = [out / "model.safetensors", out / "config.json"]
    for files, say, what in (
        (model, loads, "model"),
        (sorted((out / state.FOLDER).iterdir()), resumes, "newest state"),
    ):
        for kind, name in (("cut", "cut short at 5 places"), ("flip", "one bit flipped, 5 times")):
            tried, named, text = 0, 0, ""
            for file in files:
                whole = file.read_bytes()
                for how, data in damages(whole, draw):
                    if how != kind:
                        continue
                    file.write_bytes(data)
                    said = say(out)
                    tried, named = tried + 1, named + (file.name in said)
                    text = said.replace(str(out), "RUN") or text
                file.write_bytes(whole)
            lost = "-" if what == "model" else f"{newest - older} (the state before is used)"
            rows.append(Row(f"every file of the {what} {name}", tried, named, lost, text))
    return rows


def load_step(folder: Path) -> int:
    return state.load_info(folder, check=True)["step"]


def full_disk(start: list[str], out: Path, whole: Path, limits: Sequence[int]) -> Row:
    """Files larger than ``limits`` (KiB) cannot be written, as on a disk that is nearly full; then
    without.
    """
    survived, said = 0, ""
    for kib in limits:
        shutil.rmtree(out, ignore_errors=True)
        result = run([*start, "--out", str(out)], partial(limit_files, kib * 1024))
        after = run([*start, "--out", str(out), "--resume"])
        survived += result.code == 2 and after.code == 0 and same(whole, out)
        said = result.line or said
    return Row("full disk while a run starts or saves", len(limits), survived, "0 to 5", said)


def limit_files(size: int) -> None:
    """No file of this process grows beyond ``size`` bytes; writing more is an error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def mounted(place: Path, options: str) -> bool:
    """Whether a file system of its own, in memory, could be put at ``place`` (needs root)."""
    place.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    return subprocess.run(words, capture_output=True).returncode == 0


def really_full_disk(start: list[str], place: Path, whole: Path, sizes: Sequence[int]) -> list[Row]:
    """File systems of ``sizes`` KiB, then enlarged; and one that becomes read-only under a run."""
    survived, said = 0, ""
    for kib in sizes:
        if not mounted(place, f"size={kib}k"):
            return []
        try:
            result = run([*start, "--out", str(place / "run")])
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
            after = run([*start, "--out", str(place / "run"), "--resume"])
            survived += result.code == 2 and after.code == 0 and same(whole, place / "run")
            said = result.line or said
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
    full = Row("a file system without room, then enlarged", len(sizes), survived, "0 to 5", said)

    mounted(place, "size=64m")
    try:
        less = [word if word != "40" else "20" for word in start]
        run([*less, "--out", str(place / "run")])
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        results = [run([*less, "--out", str(place / "run"), flag]) for flag in ("--overwrite",)]
        results.append(run([*start, "--out", str(place / "other")]))
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
    good = sum(result.code == 2 and "Traceback" not in result.text for result in results)
    said = results[-1].line
    return [full, Row("a read-only file system", len(results), good, "-", said)]


def read_only(start: list[str], out: Path) -> Row:
    """A place where nobody can write: below /proc, and a file in the way."""
    blocked = out.with_name("a-file")
    blocked.write_text("")
    results = [run([*start, "--out", place]) for place in ("/proc/run", str(blocked / "run"))]
    good = sum(result.code == 2 and "Traceback" not in result.text for result in results)
    return Row("a folder that cannot be written", len(results), good, "-", results[0].line)


def bad_recordings(start: list[str], corpus: Path, out: Path, whole: Path) -> list[Row]:
    """5 % of the training files broken: one cut short, which its header tells, and one with a NaN,
    which shows when it is drawn. A run stops with the file's name and goes on when the file is
    mended, or leaves them out.
    """
    bad = corpus.with_name("corpus-with-bad-files")
    shutil.copytree(corpus, bad)
    data = open_train(DataConfig(str(bad), crop_s=0.5), "none", RATE)
    assert isinstance(data, TrainSet)
    drawn = [data.recording(i) for i in range(80)]  # of 40 recordings of 1 s
    order = sorted(set(drawn), key=drawn.index)
    late, other = (bad / f"{data.clean.names[i]}.wav" for i in (order[-1], order[-2]))
    same_corpus = [str(bad) if word == str(corpus) else word for word in start]
    rows, kept = [], {file: file.read_bytes() for file in (late, other)}

    other.write_bytes(kept[other][:200])
    stop = run([*same_corpus, "--out", str(out / "start")])
    good = stop.code == 2 and other.name in stop.line
    rows.append(Row("a recording cut short", 1, int(good), "0", stop.line))

    other.write_bytes(kept[other])
    wave, rate = soundfile.read(late)
    wave[len(wave) // 2] = np.nan
    soundfile.write(late, wave, rate, subtype="FLOAT")
    stop = run([*same_corpus, "--out", str(out / "stop")])
    found = state.find_state(out / "stop")
    lost = steps_done(out / "stop") - found.info["step"] if found else -1
    late.write_bytes(kept[late])
    after = run([*same_corpus, "--out", str(out / "stop"), "--resume"])
    good = stop.code == 2 and late.name in stop.line and lost == 0 and after.code == 0
    good = good and same(whole, out / "stop")
    rows.append(Row("a recording with a NaN, mended, --resume", 1, int(good), str(lost), stop.line))

    other.write_bytes(kept[other][:200])
    soundfile.write(late, wave, rate, subtype="FLOAT")
    skip = run([*same_corpus, "--out", str(out / "skip"), "--on-bad-file", "skip"])
    told = [line for line in skip.text.splitlines() if "were left out" in line]
    line = told[-1] if told else skip.text[-300:]
    good = skip.code == 0 and late.name in line and other.name in line
    rows.append(Row("both (5 %), --on-bad-file skip", 1, int(good), "0", line))
    return rows


def dead_process(launcher: list[str], name: str, arguments: list[str], out: Path, rank: int) -> Row:
    """Two processes, of which one is killed in the middle of its steps."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [word.replace("PORT", str(port)) for word in launcher]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words, "-m", "mfdistill", *arguments, "--out", str(out)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    limit = time.monotonic() + 600
    while steps_done(out) < 7 and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.1)
    children = [int(word) for word in _children(process.pid)]
    victim = next(child for child in children if _rank_of(child) == rank)
    os.kill(victim, signal.SIGKILL)
    died, text = time.monotonic(), ""
    assert process.stdout is not None
    heard = None
    for line in process.stdout:
        text += line
        if f"process {rank} of 2 died" in line:
            heard = heard or time.monotonic() - died
    process.wait()
    lines = [line for line in text.splitlines() if line.startswith("mfdistill: error")]
    good = len(lines) == 1 and heard is not None and heard < 30
    found = state.find_state(out)
    lost = steps_done(out) - (found.info["step"] if found else 0)
    said = f"{lines[0].split(': ', 1)[1] if lines else text[-200:]} ({heard or -1:.1f} s after)"
    return Row(f"process {rank} of 2 killed under {name}", 1, int(good), str(lost), said)


def _children(process: int) -> list[str]:
    task = Path(f"/proc/{process}/task")
    found = [word for item in task.glob("*/children") for word in item.read_text().split()]
    return [*found, *(word for child in found for word in _children(int(child)))]


def _rank_of(process: int) -> int | None:
    words = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    ranks = [word[5:] for word in words if word.startswith(b"RANK=")]
    return int(ranks[0]) if ranks else None


TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "PORT"]
ACCELERATE = [
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", "PORT"),
]


PARTS = ("kills", "damage", "disk", "data", "ranks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="of each of two commands")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=list(PARTS), help=" ".join(PARTS))
    parser.add_argument("--short", action="store_true", help="one of each, as the tests do")
    parser.add_argument("--out", help="another file than results/faults.json, and no page")
    options = parser.parse_args()
    file = Path(options.out or record.HERE / "results" / "faults.json")
    rows = [Row(**row) for row in json.loads(file.read_text())] if file.is_file() else []
    for part in options.only:
        with tempfile.TemporaryDirectory(prefix="faults-") as place:
            found = every_fault(Path(place), options.kills, options.steps, part, options.short)
            for row in found:
                row.part = part
                row.said = row.said.removeprefix("error: ").replace(place + "/", "")
        rows = [row for row in rows if row.part != part] + found
        rows.sort(key=lambda row: PARTS.index(row.part))
        write_json(file, [asdict(row) for row in rows])  # a part that is done stays
    if not options.out:
        record.into(record.HERE.parent / "docs" / "bad-input.md", "faults.json", table(rows))
    if any(row.survived < row.tried for row in rows):
        raise SystemExit("not all were survived")


def every_fault(root: Path, tries: int, steps: int, part: str, short: bool) -> list[Row]:
    """The rows of one of ``PARTS``, in a folder that is free to be filled."""
    import torch

    torch.set_num_threads(1)
    corpus = make_corpus(root / "corpus")
    often = ("--steps", str(steps), "--save-every", "5")
    teach = ["teacher-train", "--task", "vocode", "--data", str(corpus), "--sample-rate", str(RATE)]
    teach += ["--data.crop-s", "0.5", *TINY, *often]
    whole = run([*teach, "--out", str(root / "teacher")])
    if whole.code:
        raise RuntimeError(whole.text)
    distil = ["student-distill", "--teacher", str(root / "teacher"), *TINY[6:], *often]
    rows: list[Row] = []
    if part == "kills":
        commands = [("teacher-train", teach)]
        if not short:
            run([*distil, "--out", str(root / "student")])
            commands.append(("student-distill", distil))
        for name, start in commands:
            reference = root / name.split("-")[0]
            rows.append(kills(name, start, root / f"killed-{name}", reference, steps, tries))
    if part == "damage":
        rows += damage(root / "teacher")
    if part == "disk":
        limits = (2,) if short else (0, 2, 20)
        rows.append(full_disk(teach, root / "full", root / "teacher", limits))
        if not short:
            sizes = (24, 60, 100, 150)
            rows += really_full_disk(teach, root / "disk", root / "teacher", sizes)
        rows.append(read_only(teach, root / "read-only"))
    if part == "data":
        rows += bad_recordings(teach, corpus, root / "bad", root / "teacher")
    if part == "ranks":
        long = [word if word != str(steps) else "100000" for word in teach]
        for launcher, name in ((TORCHRUN, "torchrun"), (ACCELERATE, "accelerate launch")):
            for rank in (0, 1):
                out = root / f"{name.split()[0]}-{rank}"
                rows.append(dead_process(launcher, name, long, out, rank))
    return rows


def table(rows: Sequence[Row]) -> str:
    """For the page."""
    head = "| fault | tried | survived | steps lost | what was said |\n|---|---:|---:|---|---|\n"
    lines = [
        f"| {row.fault} | {row.tried} | {row.survived} | {row.steps_lost} | {row.said} |"
        for row in rows
    ]
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
