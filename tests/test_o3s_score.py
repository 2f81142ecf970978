"""Scoring and running a search with a toy student whose best schedule is known."""

import json
import math
import os
import socket
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mfdistill.errors import UserError
from mfdistill.flow import GaussianPath
from mfdistill.search import SearchConfig, StudentScorer, run_search
from mfdistill.search.cache import ScoreCache, digest_tensors
from mfdistill.tasks import Restoration

RATE, LENGTH, BEST = 16000, 1600, 0.3


@dataclass(frozen=True)
class ToyConfig:
    name: str = "toy"


class ToyTask(Restoration):
    """Features are the samples themselves, (b, 2, 1, s / 2)."""

    config = ToyConfig()
    sample_rate = RATE
    path = GaussianPath(sigma_0=1e-3)

    def __init__(self): ...

    def gain(self, degraded):
        return 0.5 / degraded.abs().amax(-1, keepdim=True)

    def condition(self, degraded, text=None):
        return {"y": degraded.reshape(len(degraded), 2, 1, -1)}

    def waveform(self, z_1, length):
        return z_1.reshape(len(z_1), -1)[:, :length]


class ToyStudent(nn.Module):
    """Adds an error in proportion to the distance of the last interior time from ``BEST``."""

    def __init__(self):
        super().__init__()
        self.error = nn.Parameter(torch.linspace(-1, 1, LENGTH // 2).expand(1, 2, 1, -1).clone())
        self.task, self.schedule, self.calls = ToyTask(), [0.0, 1.0], 0

    def forward(self, z_t, t, r, cond):
        self.calls += 1
        last = (r == 1).to(z_t)[:, None, None, None]
        return last * (t - BEST)[:, None, None, None] * self.error / (r - t)[:, None, None, None]


class ToyTeacher:
    """Stays where it is: from any noise it arrives at z_0."""

    network = nn.Linear(1, 1)
    facts = SimpleNamespace(t_last=1.0)
    branches = 1

    def __init__(self):
        self.calls = 0

    def velocity(self, z_t, t, cond):
        self.calls += 1
        return torch.zeros_like(z_t)


def utterances(count=3, silent=()):
    rng = np.random.default_rng(0)
    waves = [
        torch.from_numpy(rng.standard_normal(LENGTH).astype(np.float32) * (i not in silent))
        for i in range(count)
    ]
    return [
        {"name": f"u{i}", "clean": w, "degraded": w, "speaker": "s"} for i, w in enumerate(waves)
    ]


class Ranks:
    """As much of an Accelerator as a search uses, for threads that are ranks."""

    def __init__(self, world):
        self.world, self.barrier, self.slots = world, threading.Barrier(world), [None] * world

    def rank(self, index):
        def reduce(value, reduction):
            assert reduction == "sum"
            self.slots[index] = value
            self.barrier.wait(10)
            total = sum(self.slots[1:], self.slots[0])
            self.barrier.wait(10)
            return total

        return SimpleNamespace(
            device=torch.device("cpu"),
            process_index=index,
            num_processes=self.world,
            is_main_process=index == 0,
            reduce=reduce,
            wait_for_everyone=lambda: self.barrier.wait(10),
        )

    def run(self, work):
        results = [None] * self.world

        def one(index):
            results[index] = work(self.rank(index))

        threads = [threading.Thread(target=one, args=(index,)) for index in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return results


@pytest.mark.parametrize(("metric", "sign"), [("sisdr", 1), ("lsd", -1)])
def test_score_is_the_mean_of_the_metric_with_larger_better(metric, sign):
    scorer = StudentScorer(ToyStudent(), ToyTask(), utterances(), metric)
    at, near, far = (scorer((0.0, t, 1.0)) for t in (BEST, 0.4, 0.8))
    assert at > near > far
    assert all(math.copysign(1, value) == sign for value in (at, near)) or metric == "sisdr"
    assert scorer.direction == sign and scorer((0.0, 0.4, 1.0)) == near


def test_noise_is_that_of_the_seed_and_the_utterance():
    first, second, other = (
        StudentScorer(ToyStudent(), ToyTask(), utterances(), "sisdr", seed) for seed in (0, 0, 1)
    )
    assert all(torch.equal(a.z_0, b.z_0) for a, b in zip(first.items, second.items, strict=True))
    assert not torch.equal(first.items[0].z_0, other.items[0].z_0)
    noises = [item.z_0 - item.asked.cond["y"] for item in first.items]
    assert not torch.allclose(noises[0], noises[1])


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_agree_with_one_process(world):
    """Four ranks for three utterances leave one without work."""
    schedules = [(0.0, 0.5, 1.0), (0.0, 0.2, 0.9, 1.0)]
    alone = StudentScorer(ToyStudent(), ToyTask(), utterances(), "sisdr")
    expected = [alone(s) for s in schedules], alone.fingerprint()

    def work(accelerator):
        scorer = StudentScorer(
            ToyStudent(), ToyTask(), utterances(), "sisdr", accelerator=accelerator
        )
        assert len(scorer.items) < 3
        return [scorer(s) for s in schedules], scorer.fingerprint()

    assert Ranks(world).run(work) == [expected] * world


def test_whole_search_on_two_ranks(tmp_path):
    alone = run_search(ToyStudent(), None, utterances(), SearchConfig(nfe=2, metric="sisdr"))
    both = Ranks(2).run(
        lambda accelerator: run_search(
            ToyStudent(), None, utterances(), SearchConfig(nfe=2, metric="sisdr"), accelerator
        )
    )
    for found in both:
        assert {**found, "seconds": 0} == {**alone, "seconds": 0}


def test_teacher_mse_compares_with_the_teacher_once_per_utterance():
    student, teacher = ToyStudent(), ToyTeacher()
    scorer = StudentScorer(
        student,
        ToyTask(),
        utterances(2),
        "teacher-mse",
        teacher=teacher,
        teacher_steps=3,
        teacher_solver="euler",
    )
    scores = [scorer((0.0, t, 1.0)) for t in (BEST, 0.5)]
    assert teacher.calls == 2 * 3
    expected = -(0.2**2) * float(student.error.detach().double().square().sum(1).mean())
    assert scores == pytest.approx([0.0, expected], rel=1e-4, abs=1e-9)
    with pytest.raises(UserError, match="--teacher"):
        StudentScorer(student, ToyTask(), utterances(2), "teacher-mse")


def test_silent_references_are_left_out(caplog):
    with_silence = StudentScorer(ToyStudent(), ToyTask(), utterances(3, silent=(2,)), "sisdr")
    assert with_silence.n == 2 and "1 of 3" in caplog.text
    assert with_silence((0.0, 0.5, 1.0)) == StudentScorer(
        ToyStudent(), ToyTask(), utterances(2), "sisdr"
    )((0.0, 0.5, 1.0))
    with pytest.raises(UserError, match="no value on any"):
        StudentScorer(ToyStudent(), ToyTask(), utterances(1, silent=(0,)), "sisdr")


def test_a_result_without_a_value_is_the_worst():
    student = ToyStudent()
    with torch.no_grad():
        student.error[..., 0] = math.nan
    assert StudentScorer(student, ToyTask(), utterances(2), "sisdr")((0.0, 0.5, 1.0)) == -math.inf


def test_search_finds_the_best_step_and_writes_it(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"format": "mfdistill/1", "role": "student", "schedules": {"3": [0, 0.2, 0.7, 1]}}
        )
    )
    student = ToyStudent()
    found = run_search(
        student, None, utterances(), SearchConfig(nfe=2, metric="sisdr"), out=tmp_path
    )
    assert found["schedule"][1] == pytest.approx(BEST, abs=0.01)
    assert student.schedule == found["schedule"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["schedule"] == found["schedule"] and config["role"] == "student"
    assert config["schedules"] == {"2": found["schedule"], "3": [0, 0.2, 0.7, 1]}
    for name in ("o3s", "o3s-2"):
        assert json.loads((tmp_path / f"{name}.json").read_text()) == json.loads(json.dumps(found))
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert found["n"] == 3 and found["utterances"] == ["u0", "u1", "u2"]
    assert {start["name"] for start in found["starts"]} == {"uniform", "sway"}
    assert found["scored"] == sum(not e["cached"] for e in found["evaluations"]) < found["requests"]


def test_a_killed_search_goes_on_where_it_was(tmp_path):
    config = SearchConfig(nfe=2, metric="sisdr")
    whole = ToyStudent()
    reference = run_search(whole, None, utterances(), config, out=tmp_path / "whole")

    class Killed(BaseException):
        pass

    killed, forward = ToyStudent(), ToyStudent.forward

    def mortal(*args):
        if killed.calls > 60:
            raise Killed
        return forward(killed, *args)

    killed.forward = mortal
    with pytest.raises(Killed):
        run_search(killed, None, utterances(), config, out=tmp_path / "killed")
    cache = tmp_path / "killed" / "o3s_cache.jsonl"
    kept = len(cache.read_text().splitlines())
    assert kept == 10 and not (tmp_path / "killed" / "o3s.json").exists()
    with cache.open("a") as file:  # and it died while writing
        file.write('{"fingerprint": "')
    resumed = ToyStudent()
    found = run_search(resumed, None, utterances(), config, out=tmp_path / "killed")
    assert resumed.calls == whole.calls - kept * 2 * 3
    assert (found["schedule"], found["score"]) == (reference["schedule"], reference["score"])
    again = ToyStudent()
    assert run_search(again, None, utterances(), config, out=tmp_path / "killed")["scored"] == 0
    assert again.calls == 0


def test_other_weights_metrics_seeds_or_utterances_are_scored_anew():
    def fingerprint(scale=1.0, items=None, metric="sisdr", seed=0):
        student = ToyStudent()
        with torch.no_grad():
            student.error *= scale
        return StudentScorer(student, ToyTask(), items or utterances(), metric, seed).fingerprint()

    prints = [
        fingerprint(),
        fingerprint(1.5),
        fingerprint(items=utterances(2)),
        fingerprint(metric="lsd"),
        fingerprint(seed=1),
    ]
    assert len(set(prints)) == 5 and fingerprint() == prints[0]


def test_cache_keeps_other_searches_and_names_a_damaged_line(tmp_path):
    path = tmp_path / "o3s_cache.jsonl"
    one, two = ScoreCache(path, "one"), ScoreCache(path, "two")
    values = [0.1, 1 / 3, math.pi]
    one.add((0.0, 0.5, 1.0), values)
    two.add((0.0, 0.5, 1.0), [1.25, math.nan])
    assert list(one.load()) == list(two.load()) == [(0.0, 0.5, 1.0)]
    assert one.load()[0.0, 0.5, 1.0].tolist() == values  # to the last bit
    np.testing.assert_array_equal(two.load()[0.0, 0.5, 1.0], [1.25, math.nan])
    # before values were kept
    old = json.dumps({"fingerprint": "one", "schedule": [0.0, 0.4, 1.0], "score": 1.5})
    path.write_text(old + "\n" + path.read_text())
    assert list(one.load()) == [(0.0, 0.5, 1.0)]
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(UserError, match="line 1: damaged"):
        one.load()


def test_digest_sees_names_types_and_values():
    a = torch.arange(4.0)
    digests = [
        digest_tensors(t)
        for t in (
            {"a": a},
            {"b": a},
            {"a": a.reshape(2, 2)},
            {"a": a.half()},
            {"a": a + 1},
            {"a": a[0]},
        )
    ]
    assert len(set(digests)) == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SearchConfig(nfe=0), "--nfe 0"),
        (lambda: SearchConfig(starts=("uniform", "cosine")), "--starts"),
        (lambda: SearchConfig(margin=-1.0), "--margin"),
        (lambda: SearchConfig(limit=0), "--limit 0: must be at least 1, or auto"),
        (lambda: SearchConfig(limit="all"), "--limit all: must be at least 1, or auto"),  # type: ignore[arg-type]
        (lambda: SearchConfig(resolution=-0.1), "--resolution"),
        (
            lambda: run_search(ToyStudent(), None, utterances(), SearchConfig(metric="mos")),
            "--metric mos: unknown",
        ),
        (
            lambda: run_search(
                ToyStudent(), None, utterances(), SearchConfig(metric="teacher-mse")
            ),
            "--teacher",
        ),
        (lambda: run_search(ToyStudent(), None, [], SearchConfig(metric="sisdr")), "no utterances"),
        (
            lambda: run_search("no/such/student", None, utterances(), SearchConfig(metric="sisdr")),
            "not a folder",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_one_step_is_scored_once(tmp_path):
    found = run_search(ToyStudent(), None, utterances(), SearchConfig(nfe=1, metric="sisdr"))
    assert found["schedule"] == [0.0, 1.0] and found["requests"] == found["scored"] == 1


def _one_rank(rank, port, folder):
    from accelerate import Accelerator

    rendezvous = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
    }
    os.environ.update({key: str(value) for key, value in rendezvous.items()})
    torch.set_num_threads(1)
    found = run_search(
        ToyStudent(),
        None,
        utterances(),
        SearchConfig(nfe=2, metric="sisdr"),
        Accelerator(cpu=True),
        out=folder,
    )
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_real_processes_find_what_one_finds_even_from_half_a_cache(tmp_path):
    alone = run_search(
        ToyStudent(), None, utterances(), SearchConfig(nfe=2, metric="sisdr"), out=tmp_path
    )
    cache = tmp_path / "o3s_cache.jsonl"
    lines = cache.read_text().splitlines(keepends=True)
    cache.write_text("".join(lines[:7]))  # only the main process reads it
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_one_rank, (port, tmp_path), nprocs=2)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert {**ranks[0], "seconds": 0} == {**ranks[1], "seconds": 0}
    assert ranks[0]["scored"] == alone["scored"] - 7
    assert (ranks[0]["schedule"], ranks[0]["score"]) == (alone["schedule"], alone["score"])
    assert cache.read_text().splitlines(keepends=True) == lines
