"""The search with the program's own students, teachers, tasks and metrics."""

import json

import pytest
import torch

from mfdistill.checkpoint import save_folder
from mfdistill.config import to_dict
from mfdistill.data import DataConfig, open_eval
from mfdistill.errors import UserError
from mfdistill.flow import solve
from mfdistill.networks import build_network
from mfdistill.networks.compact import CompactConfig
from mfdistill.search import SearchConfig, StudentScorer, run_search
from mfdistill.search.score import resolve_metric
from mfdistill.students import Student, load_student, save_student
from mfdistill.tasks import default_task, get_task
from mfdistill.teachers import Field, load_teacher


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A teacher with random weights and the student made from it, for ``vocode``."""
    torch.manual_seed(0)
    root, task = tmp_path_factory.mktemp("search"), get_task(default_task("vocode"))
    description = {"name": "compact", "config": to_dict(CompactConfig(channels=8, blocks=1))}
    network = build_network(**description)
    with torch.no_grad():
        # a network that starts at zero would make every schedule equal
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    config = {"role": "teacher", "task": to_dict(task.config), "network": description}
    save_folder(root / "teacher", network.state_dict(), config)
    save_student(Student.from_teacher(Field(network, task, config)), root / "student")
    return root


def speech(count=2, seconds=0.5):
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(int(16000 * seconds)) / 16000
    tones = [torch.sin(2 * torch.pi * (150 + 60 * i) * time) * time for i in range(count)]
    waves = [tone + 0.01 * torch.randn(time.shape, generator=generator) for tone in tones]
    return [
        {"name": f"u{i}", "clean": w, "degraded": w, "speaker": f"s{i}"}
        for i, w in enumerate(waves)
    ]


def test_teacher_mse_search_from_folder_to_schedule(folders):
    config = SearchConfig(
        nfe=3,
        metric="teacher-mse",
        teacher=str(folders / "teacher"),
        teacher_steps=8,
        iterations=4,
        starts=("uniform",),
    )
    found = run_search(folders / "student", None, speech(), config)
    first = found["evaluations"][0]
    assert (
        first["schedule"] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-6)
        and found["score"] >= first["score"]
    )
    assert found["value"] == -found["score"] >= 0
    student = load_student(folders / "student")
    assert student.schedule == found["schedule"] and len(student.schedule) == 4
    saved = json.loads((folders / "student" / "config.json").read_text())
    assert saved["schedules"] == {"3": found["schedule"]} and saved["role"] == "student"
    assert (folders / "student" / "o3s.png").read_bytes()[:4] == b"\x89PNG"


def test_a_student_that_is_its_teacher_scores_as_euler_does(folders):
    student, teacher = load_student(folders / "student"), load_teacher(folders / "teacher")
    scorer = StudentScorer(
        student, student.task, speech(), "teacher-mse", 0, None, teacher, teacher_steps=8
    )
    item = scorer.items[1]
    path = solve(
        lambda z, t: teacher.velocity(z, t, item.asked.cond),
        item.z_0,
        [0.0, 0.25, 1.0],
        solver="euler",
    )
    mse = float((path - item.target).double().square().sum(1).mean())
    assert dict(scorer._values((0.0, 0.25, 1.0)))[1] == pytest.approx(mse, rel=1e-5)


def test_wrong_task(folders):
    with pytest.raises(UserError, match="made for task vocode"):
        run_search(
            folders / "student",
            get_task(default_task("enhance")),
            speech(),
            SearchConfig(metric="sisdr"),
        )


@pytest.mark.parametrize("metric", ["spksim", "pesq", "estoi", "lsd"])
def test_metrics_on_real_speech(folders, shared, metric):
    utterances = open_eval(DataConfig(source=str(shared / "data")), "valid", False, 16000, limit=2)
    clips = [
        {**u, "clean": u["clean"][:24000], "degraded": u["degraded"][:24000]} for u in utterances
    ]
    student = load_student(folders / "student")
    scorer = StudentScorer(student, student.task, clips, metric)
    score = scorer((0.0, 0.4, 1.0))
    assert scorer.n == 2 and score == scorer((0.0, 0.4, 1.0))
    assert score > float("-inf")


def test_metrics_by_name_or_column():
    assert resolve_metric("dnsmos") == ("dnsmos", "dnsmos_ovrl", 1)
    assert resolve_metric("dnsmos_bak") == ("dnsmos", "dnsmos_bak", 1)
    assert resolve_metric("lsd") == ("lsd", "lsd", -1)
    assert resolve_metric("teacher-mse") == ("teacher-mse", "teacher-mse", -1)
