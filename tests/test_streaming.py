"""Streams equal the whole signal, see nothing later than they claim, and can be copied, reset and
put side by side.
"""

import dataclasses
import math

import pytest
import torch

from mfdistill.audio.features import StftConfig, inverse_features, stft_features
from mfdistill.errors import UserError
from mfdistill.flow import noise_like, solve, tableau
from mfdistill.networks import build_network
from mfdistill.students import Student, sample
from mfdistill.students.streaming import StreamRestorer
from mfdistill.systems.streamfm import in_front
from mfdistill.tasks import TaskConfig, get_task
from mfdistill.teachers.field import Field

STFT = StftConfig(n_fft=64, hop=32)
NETWORKS = {
    "compact": {
        "channels": 8,
        "blocks": 2,
        "freqs": 32,
        "band_stride": 4,
        "recurrent": 8,
        "embedding": 16,
        "causal": True,
    },
    "causal_ncsnpp": {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "input_freqs": 32},
}
LENGTH = 32 * 45


def task_config(**options):
    return TaskConfig("enhance", STFT, sigma_0=0.3, **{"normalise": "none", **options})


def randomised(network, scale=0.15):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if (
                value.dtype.is_floating_point
                and "fir_kernel" not in name
                and not name.endswith("gfp.W")
            ):
                offset = (
                    1.0
                    if "norm" in name.lower() and name.endswith(("weight", "running_var"))
                    else 0.0
                )
                noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                value.copy_(
                    offset + scale * (noise.abs() if name.endswith("running_var") else noise)
                )
    return network


def teacher_of(name, dtype=torch.float64, **task):
    network = randomised(build_network(name, NETWORKS[name]))
    return Field(
        network,
        get_task(task_config(**task)),
        {"network": {"name": name, "config": NETWORKS[name]}},
    ).to(dtype=dtype)


def student_of(name, steps=1, dtype=torch.float64):
    return randomised(Student.from_teacher(teacher_of(name, dtype), steps)).eval()


def waves(batch=1, length=LENGTH, dtype=torch.float64):
    return 0.1 * torch.randn(batch, length, generator=torch.Generator().manual_seed(5), dtype=dtype)


def draw(seeds, frames, dtype):
    """The stream's noise, frame by frame."""
    streams = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        streams.append(
            torch.cat(
                [noise_like((1, 2, STFT.bins, 1), generator, dtype=dtype) for _ in range(frames)], 3
            )
        )
    return torch.cat(streams)


@torch.no_grad()
def offline(model, wave, steps=None, solver="euler", seeds=None):
    config = dataclasses.replace(STFT, causal=True)
    z = stft_features(wave, config)
    cond = model.task.completed(model.task.observe(z))
    z_0 = model.task.path.prior(cond, draw(seeds or range(wave.shape[0]), z.shape[3], z.dtype))
    if isinstance(model, Student):
        z_1 = sample(model, z_0, cond, steps)
    else:
        z_1 = solve(lambda z_t, t: model.velocity(z_t, t, cond), z_0, steps or 1, solver)
    return inverse_features(z_1, config, wave.shape[1])


def stream(restorer, wave, block):
    parts = [restorer.push(wave[:, k : k + block]) for k in range(0, wave.shape[1], block)]
    return torch.cat([*parts, restorer.flush()], 1)


def relative(a, b):
    assert a.shape == b.shape
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("block", [1, 7, 160, 256, 1000, LENGTH])
def test_stream_equals_offline_for_every_block_size(name, block):
    student, wave = student_of(name), waves(2)
    assert (
        relative(stream(StreamRestorer(student, batch=2), wave, block), offline(student, wave))
        < 1e-12
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_one_state_per_evaluation(name, steps):
    student, wave = student_of(name, steps), waves()
    assert relative(stream(StreamRestorer(student), wave, 100), offline(student, wave)) < 1e-12
    teacher = teacher_of(name)
    assert (
        relative(stream(StreamRestorer(teacher, steps), wave, 100), offline(teacher, wave, steps))
        < 1e-12
    )
    single = student.to(torch.float32)
    assert (
        relative(stream(StreamRestorer(single), wave.float(), 100), offline(single, wave.float()))
        < 1e-5
    )


@pytest.mark.parametrize("solver", ["midpoint", "2xmidpoint+1xeuler@0.2", "rk5_ralston3_ralston2"])
def test_stages_of_a_solver(solver):
    teacher, wave = teacher_of("causal_ncsnpp"), waves(length=640)
    restorer = StreamRestorer(teacher, solver=solver)
    assert len(restorer.plan.b) == tableau(solver).stages
    assert relative(stream(restorer, wave, 100), offline(teacher, wave, solver=solver)) < 1e-12


@pytest.mark.parametrize(
    "stft",
    [
        StftConfig(n_fft=64, hop=16),
        StftConfig(n_fft=64, hop=32, window="hann"),
        StftConfig(n_fft=62, hop=16),
    ],
)
@pytest.mark.parametrize("length", [1, 63, 500])
def test_nothing_is_changed_where_the_flow_stands_still(stft, length):
    class Still(torch.nn.Module):
        causal = True

        def __init__(self):
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))

        def init_state(self, batch, freqs):
            return ()

        def step(self, frame, t, cond, state):
            return torch.zeros_like(frame), ()

    whole = dataclasses.replace(stft, drop_nyquist=False)
    task = get_task(dataclasses.replace(task_config(), stft=whole, sigma_0=0.0, sigma_1=0.0))
    network = Still()
    network.time_embedding_name = ""
    wave = waves(2, length)
    for block in (1, 7, 160):
        assert (
            relative(stream(StreamRestorer(Field(network, task), batch=2), wave, block), wave)
            < 1e-12
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_no_later_frame_is_seen(name):
    network = teacher_of(name, torch.float32).network
    z, y = noise_like((1, 2, 32, 30)), noise_like((1, 2, 32, 30))
    later_z, later_y = z.clone(), y.clone()
    later_z[..., 17:] += 1
    later_y[..., 17:] -= 1
    with torch.no_grad():
        before, after = (
            network(z, torch.tensor([0.3]), {"y": y}),
            network(later_z, torch.tensor([0.3]), {"y": later_y}),
        )
    assert torch.equal(before[..., :17], after[..., :17]) and not torch.equal(
        before[..., 17], after[..., 17]
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_latency_is_what_it_claims(name):
    student, wave = student_of(name), waves()
    restorer = StreamRestorer(student)
    claimed = restorer.latency
    assert (claimed.offset, claimed.algorithmic, claimed.total, claimed.hop) == (
        32,
        64,
        96,
        32,
    ) and claimed.ms()["total"] == 6.0
    out, ahead = stream(restorer, wave, 160), 0
    for start in range(700, 733):  # every place in a hop
        changed = wave.clone()
        changed[:, start:] += 0.1
        first = int((stream(restorer, changed, 160) != out)[0].nonzero()[0])
        ahead = max(ahead, start - first)
    assert ahead + 1 == claimed.algorithmic - 1  # the window begins with a zero
    delays = [
        len(range(k + 1)) - sum(part.shape[1] for part in [restorer.push(wave[:, : k + 1])])
        for k in [127]
    ]
    assert delays == [claimed.offset]


@pytest.mark.parametrize("name", NETWORKS)
def test_reset_snapshot_and_interleaved_streams(name):
    student, wave = student_of(name), waves(2)
    restorer = StreamRestorer(student)
    first = stream(restorer, wave[:1], 50)
    # flush starts anew
    assert torch.equal(stream(restorer, wave[:1], 50), first)
    restorer.push(wave[1:])
    restorer.reset()
    assert torch.equal(stream(restorer, wave[:1], 50), first)
    restorer.push(wave[:1, :333])
    saved = restorer.snapshot()
    once = restorer.push(wave[:1, 333:])
    restorer.restore(saved)
    assert torch.equal(restorer.push(wave[:1, 333:]), once)
    a, b = StreamRestorer(student, seeds=[0]), StreamRestorer(student, seeds=[1])
    parts = [
        (a.push(wave[:1, k : k + 70]), b.push(wave[1:, k : k + 70])) for k in range(0, LENGTH, 70)
    ]
    both = stream(StreamRestorer(student, batch=2), wave, 70)
    for i, last in enumerate((a, b)):
        assert (
            relative(torch.cat([*(part[i] for part in parts), last.flush()], 1), both[i : i + 1])
            < 1e-12
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_one_of_two_streams_begins_again(name):
    student, wave = student_of(name), waves(2)
    restorer = StreamRestorer(student, batch=2)
    head = restorer.push(wave[:, :640])
    restorer.reset(torch.tensor([False, True]))
    tail = torch.cat([restorer.push(wave[:, 640:]), restorer.flush()], 1)
    assert (
        relative(torch.cat([head, tail], 1)[:1], stream(StreamRestorer(student), wave[:1], LENGTH))
        < 1e-12
    )
    alone = stream(StreamRestorer(student, seeds=[1]), wave[1:, 640:], 64)
    assert relative(tail[1:, restorer.latency.offset :], alone) < 1e-12


def test_predictor_in_front_has_a_state_of_its_own():
    sizes = NETWORKS["causal_ncsnpp"]
    flow = randomised(build_network("causal_ncsnpp", {**sizes, "input_channels": 6})).double()
    predictor = in_front(
        randomised(
            build_network("causal_ncsnpp", {**sizes, "input_channels": 2, "conditional": False})
        ).double(),
        "file",
    )
    teacher = Field(flow, get_task(task_config(prior_mean="e"), predictor))
    wave = waves()
    assert (
        relative(stream(StreamRestorer(teacher, 2), wave, 100), offline(teacher, wave, 2)) < 1e-12
    )
    student = Student.from_teacher(teacher).eval()
    assert relative(stream(StreamRestorer(student), wave, 100), offline(student, wave)) < 1e-12


def test_gain():
    student, wave = student_of("compact"), waves()
    loud = stream(StreamRestorer(student, gain=4.0), wave / 4, 100)
    assert relative(4 * loud, stream(StreamRestorer(student, gain=1.0), wave, 100)) < 1e-12
    peak = [
        stream(StreamRestorer(student, gain="peak"), scale * wave, 100) for scale in (1.0, 0.01)
    ]
    # level does not matter
    assert relative(100 * peak[1], peak[0]) < 1e-9
    assert torch.isfinite(stream(StreamRestorer(student, gain="peak"), 0 * wave, 100)).all()


@pytest.mark.parametrize("gain", [1.0, "peak"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, 9.0])
def test_a_sample_that_is_none_is_silence_and_leaves_nothing_behind(bad, gain):
    student, wave = student_of("compact"), waves(2, 4 * LENGTH)
    silent, broken = wave.clone(), wave.clone()
    silent[0, 700], broken[0, 700] = 0.0, bad
    restorer = StreamRestorer(student, batch=2, gain=gain)
    parts = [restorer.push(broken[:, k : k + 100]) for k in range(0, 4 * LENGTH, 100)]
    assert restorer.state.replaced == 1
    result = torch.cat([*parts, restorer.flush()], 1)
    assert restorer.state.replaced == 0  # a new start
    expected = stream(StreamRestorer(student, batch=2, gain=gain), silent, 100)
    assert torch.equal(result, expected) and torch.isfinite(result).all()
    clean = stream(StreamRestorer(student, batch=2, gain=gain), wave, 100)
    assert torch.equal(result[1], clean[1]) and not torch.equal(result[0], clean[0])
    reach = 700 + STFT.n_fft + 40 * STFT.hop  # of the network's convolutions over frames
    assert reach < 4 * LENGTH - 100
    torch.testing.assert_close(result[0, reach:], clean[0, reach:], rtol=0, atol=1e-9)


def test_what_cannot_stream_is_refused():
    sees_all = build_network("compact", {**NETWORKS["compact"], "causal": False})
    with pytest.raises(UserError, match="sees later frames"):
        StreamRestorer(Field(sees_all, get_task(task_config())))
    with pytest.raises(UserError, match="no task"):
        StreamRestorer(Field(sees_all))
    with pytest.raises(UserError, match="seeds"):
        StreamRestorer(student_of("compact"), batch=2, seeds=[1])
    with pytest.raises(UserError, match="gain"):
        StreamRestorer(student_of("compact"), gain=-1.0)
    with pytest.raises(ValueError, match="2 streams"):
        StreamRestorer(student_of("compact"), batch=2).push(waves())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("steps", [1, 2])
def test_onnx_graph_with_explicit_state_equals_eager(name, steps):
    student, wave = student_of(name, steps, torch.float32), waves(dtype=torch.float32)
    eager, graph = StreamRestorer(student), StreamRestorer(student, runner="onnx", fold=True)
    assert relative(stream(graph, wave, 100), stream(eager, wave, 100)) < 1e-5
    if steps == 1:
        peak = [
            stream(StreamRestorer(student, gain="peak", runner=runner), wave, 100)
            for runner in ("onnx", "eager")
        ]
        assert relative(*peak) < 1e-5
    with pytest.raises(UserError, match="one stream"):
        StreamRestorer(student, batch=2, runner="onnx")


def test_onnx_graph_of_norms_without_running_statistics(monkeypatch):
    monkeypatch.setitem(
        NETWORKS,
        "causal_ncsnpp",
        {**NETWORKS["causal_ncsnpp"], "norm": "subband_grouped_framenorm"},
    )
    student, wave = (
        student_of("causal_ncsnpp", dtype=torch.float32),
        waves(length=640, dtype=torch.float32),
    )
    assert (
        relative(
            stream(StreamRestorer(student, runner="onnx"), wave, 100),
            stream(StreamRestorer(student), wave, 100),
        )
        < 1e-5
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_time_changes_nothing(name):
    student, teacher, wave = student_of(name), teacher_of(name), waves()
    for model in (student, teacher):
        assert (
            relative(
                stream(StreamRestorer(model, fold=True), wave, 100),
                stream(StreamRestorer(model), wave, 100),
            )
            < 1e-12
        )
    assert len(StreamRestorer(student, fold=True).step.state_dict()) < len(
        StreamRestorer(student).step.state_dict()
    )


def test_runners_are_named_and_say_what_they_need():
    student = student_of("compact", dtype=torch.float32)
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        StreamRestorer(student, runner="cuda-graph")
    with pytest.raises(
        UserError, match="'fast' is unknown; known are: eager, compile, cuda-graph, onnx"
    ):
        StreamRestorer(student, runner="fast")


def test_models_loaded_for_streaming_give_the_same_numbers_frame_by_frame(tmp_path):
    from mfdistill.checkpoint import save_folder
    from mfdistill.config import to_dict
    from mfdistill.students import load_student, save_student
    from mfdistill.teachers import load_teacher

    sees_all = build_network("compact", {**NETWORKS["compact"], "causal": False})
    teacher = teacher_of("compact", torch.float32)
    for folder, network, causal in (("all", sees_all, False), ("past", teacher.network, True)):
        sizes = {**NETWORKS["compact"], "causal": causal}
        about = {
            "role": "teacher",
            "task": to_dict(task_config()),
            "network": {"name": "compact", "config": sizes},
        }
        save_folder(tmp_path / folder, network.state_dict(), about)
    save_student(student_of("compact", dtype=torch.float32), tmp_path / "student")
    z, y, t = noise_like((2, 2, 32, 9)), noise_like((2, 2, 32, 9)), torch.tensor([0.1, 0.6])
    models = [load_teacher(tmp_path / "past", streaming=flag) for flag in (False, True)]
    students = [load_student(tmp_path / "student", streaming=flag) for flag in (False, True)]
    torch.testing.assert_close(*(model.velocity(z, t, {"y": y}) for model in models))
    with torch.no_grad():
        torch.testing.assert_close(*(student(z, t, t + 0.3, {"y": y}) for student in students))
    with pytest.raises(UserError, match="no streaming form"):
        load_teacher(tmp_path / "all", streaming=True)


def test_regression_network_streams_without_noise():
    from mfdistill.distill.objectives.regression import estimate

    teacher, wave = teacher_of("compact", prior_mean="zero"), waves()
    config = dataclasses.replace(STFT, causal=True)
    cond = teacher.task.observe(stft_features(wave, config))
    with torch.no_grad():
        expected = inverse_features(
            estimate(teacher.network, teacher.task.path, cond), config, wave.shape[1]
        )
    assert relative(stream(StreamRestorer(teacher, temperature=0.0), wave, 100), expected) < 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_a_long_stream_neither_drifts_nor_remembers(name):
    """20 s at 8 kHz in single precision: noise, silence, denormals and a full-scale step in turns,
    beside a stream of silence.
    """
    rate, rounds, latency = 8000, 5, 64
    own = {"shape": "magnitude", "floor": 1e-3} if name == "compact" else {}
    prior = {f"prior_{key}": value for key, value in own.items()}
    network = randomised(build_network(name, {**NETWORKS[name], **own}))
    task = get_task(
        dataclasses.replace(task_config(**prior), stft=dataclasses.replace(STFT, sample_rate=rate))
    )
    restorer = StreamRestorer(Field(network, task), batch=2, seeds=[0, 0])
    noise = 0.1 * torch.randn(rate, generator=torch.Generator().manual_seed(3))
    # from their bits, as a process that trained before makes 0 of a product that small
    denormals = torch.arange(rate, dtype=torch.int32).mul(1000).view(torch.float32)
    assert int(denormals.view(torch.int32).max()) < 1 << 23  # an exponent of 0
    one_round = torch.cat([noise, 0 * noise, denormals, torch.ones(rate)])
    out, norms = [], []
    for _ in range(rounds):
        out.append(restorer.push(torch.stack([one_round, 0 * one_round])))
        # of the network
        norms.append(torch.stack([state.norm() for state in restorer.state.step[3:]]))
    whole = torch.cat([*out, restorer.flush()], 1)
    assert whole.shape[1] == rounds * len(one_round) and torch.isfinite(whole).all()
    assert all((norm <= 1.25 * norms[0]).all() for norm in norms)
    # what was before has left; what comes is not seen yet
    wave, never = whole.reshape(2, rounds, 4, rate)[..., rate // 2 : -latency]
    levels = wave.square().mean(-1).sqrt()
    torch.testing.assert_close(levels[-1], levels[0], rtol=0.15, atol=1e-5)
    bound = 1e-3 * float(never.abs().max())
    # the noise before is forgotten
    torch.testing.assert_close(wave[:, 1:3], never[:, 1:3], rtol=0, atol=bound)
    # its answer follows the magnitude of its input
    if name == "compact":
        assert levels[:, 1:3].max() < 1e-4 * levels[:, 0].min()
