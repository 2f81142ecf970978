"""Runge-Kutta tables, their names and compositions, and the time grids of other systems' samplers:
every number.
"""

import pytest
import torch
from gaussian import warped_velocity

from mfdistill.errors import UserError
from mfdistill.flow import (
    EPSS,
    SOLVERS,
    TABLEAUS,
    Tableau,
    along,
    cosine_times,
    f5_times,
    solve,
    stages,
    sway,
    tableau,
    tableau_step,
)
from mfdistill.flow.grids import flowse_times, meanflowse_times

ORDER = {"euler": 1, "heun3": 3, "ralston3": 3, "ssprk3": 3, "rk4": 4, "rk4_3over8": 4}
ORDER |= {"rk4_order3_custom": 3, "midpoint": 2, "heun": 2, "ralston2": 2, "generic2-0.6": 2}
COMPOSED = ["2xmidpoint+1xeuler@0.2", "rk5_ralston3_ralston2", "euler@0.1+2xheun3", "3xeuler"]


def elementary(table: Tableau) -> list[float]:
    """Left sides of the order conditions (Butcher), trees of one to four nodes."""
    a = torch.zeros(table.stages, table.stages, dtype=torch.float64)
    for i, row in enumerate(table.a):
        a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    b, c = (torch.tensor(x, dtype=torch.float64) for x in (table.b, table.c))
    trees = [torch.ones_like(c), c, c**2, a @ c, c**3, c * (a @ c), a @ c**2, a @ (a @ c)]
    return [float(b @ tree) for tree in trees]


WANTED = [1, 1 / 2, 1 / 3, 1 / 6, 1 / 4, 1 / 8, 1 / 12, 1 / 24]
CONDITIONS = {1: 1, 2: 2, 3: 4, 4: 8}


@pytest.mark.parametrize("name", [*TABLEAUS, "generic2-0.6"])
def test_every_table_has_its_order_and_no_more(name):
    table = tableau(name)
    count = CONDITIONS[ORDER[name]]
    found = elementary(table)
    assert found[:count] == pytest.approx(WANTED[:count], abs=1e-14)
    assert count == 8 or found[count:] != pytest.approx(WANTED[count:], abs=1e-6)
    assert all(abs(sum(row) - node) < 1e-14 for row, node in zip(table.a, table.c, strict=True))
    assert [len(row) for row in table.a] == list(range(table.stages)) and table.c[0] == 0
    assert stages(name) == stages(table) == table.stages == len(table.c)


@pytest.mark.parametrize("name", SOLVERS)
def test_tables_are_the_solvers_of_their_name(name):
    z = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(4, 3)
    for steps in (1, [0.25, 0.5, 1.0]):
        torch.testing.assert_close(
            solve(warped_velocity, z, steps, TABLEAUS[name]),
            solve(warped_velocity, z, steps, name),
            rtol=1e-13,
            atol=1e-13,
        )
        assert stages(name) == TABLEAUS[name].stages


def test_nodes_of_named_tables():
    assert tableau("generic2-0.6") == Tableau(((), (0.6,)), (1 - 1 / 1.2, 1 / 1.2), (0.0, 0.6))
    assert tableau("generic2-1") == tableau("heun") == TABLEAUS["heun"]
    assert tableau("heun").b == (0.5, 0.5) and tableau("midpoint").b == (0.0, 1.0)
    assert tableau("rk4_3over8").c == pytest.approx((0, 1 / 3, 2 / 3, 1))


def test_a_composition_is_its_blocks_one_after_another():
    """Fractions 0.2 of Euler and 2 x 0.4 of midpoint, written out."""
    table = tableau("2xmidpoint+1xeuler@0.2")
    assert table.c == pytest.approx((0, 0.2, 0.4, 0.6, 0.8))
    assert table.b == pytest.approx((0, 0.4, 0, 0.4, 0.2))
    rows = [(), (0.2,), (0, 0.4), (0, 0.4, 0.2), (0, 0.4, 0, 0.4)]
    for row, wanted in zip(table.a, rows, strict=True):
        # steps see the weights of those before, and of their own block its row
        assert (*row, *[0.0] * 5)[:5] == pytest.approx((*wanted, *[0.0] * 5)[:5])
    z = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(4, 3)
    for start, end in ((0.0, 1.0), (0.25, 0.75)):
        h = end - start
        middle = solve(warped_velocity, z, [start, start + 0.4 * h, start + 0.8 * h], "midpoint")
        wanted = solve(warped_velocity, middle, [start + 0.8 * h, end], "euler")
        found = solve(warped_velocity, z, [start, end], "2xmidpoint+1xeuler@0.2")
        torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("euler", "1xeuler@1"),
        ("2xeuler", "euler+euler"),
        ("4xeuler", "euler@0.25+3xeuler"),
        ("heun+2xeuler@0.5", "heun@0.5+2xeuler@0.5"),
        ("rk5_ralston3_ralston2", "ralston3@0.55+ralston2@0.45"),
        ("rk5_ralston3_ralston2+euler", "ralston3@0.275+ralston2@0.225+euler@0.5"),
        ("euler@5e-1+heun", "euler@0.5+heun@0.5"),
        (" euler + heun", "euler+heun"),
        ("2xgeneric2-0.5", "2xmidpoint"),
    ],
)
def test_ways_to_write_the_same_composition(one, other):
    a, b = tableau(one), tableau(other)
    assert a.b == pytest.approx(b.b) and a.c == pytest.approx(b.c)
    assert a.stages == stages(one) == b.stages
    for row, same in zip(a.a, b.a, strict=True):
        assert row == pytest.approx(same)


@pytest.mark.parametrize("name", COMPOSED)
def test_compositions_cover_the_whole_step(name):
    table = tableau(name)
    assert sum(table.b) == pytest.approx(1, abs=1e-14)
    assert all(abs(sum(row) - node) < 1e-14 for row, node in zip(table.a, table.c, strict=True))


def test_fractions_below_1_stop_early():
    table = tableau("euler@0.5+2xeuler@0.25")
    assert table.b == pytest.approx((0.5, 0.125, 0.125)) and table.c == pytest.approx(
        (0, 0.5, 0.625)
    )


def test_a_table_along_a_grid():
    times = [0.25, 0.5, 1.0]
    table = along(TABLEAUS["heun"], times)
    assert table.c == pytest.approx((0.25, 0.5, 0.5, 1.0))
    assert table.b == pytest.approx((0.125, 0.125, 0.25, 0.25))
    z = torch.linspace(-2, 2, 6, dtype=torch.float64).reshape(2, 3)
    found = tableau_step(warped_velocity, z, torch.zeros(2), torch.ones(2), table)
    torch.testing.assert_close(found, solve(warped_velocity, z, times, "heun"), rtol=1e-13, atol=0)


def test_slopes_without_weight_are_not_added():
    """What is nowhere used may be infinite."""
    table = Tableau(((), (0.5,)), (1.0, 0.0), (0.0, 0.5))
    seen = []

    def velocity(z, t):
        seen.append(float(t[0]))
        return torch.full_like(z, 2.0) if t[0] == 0 else torch.full_like(z, torch.inf)

    z = tableau_step(velocity, torch.ones(1, 2), torch.zeros(1), torch.ones(1), table)
    assert torch.equal(z, torch.full((1, 2), 3.0)) and seen == [0.0, 0.5]
    nothing = Tableau(((),), (0.0,), (0.0,))
    assert torch.equal(solve(velocity, torch.ones(1, 2), 1, nothing), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("2x", "is not .Nx.NAME"),
        ("euler@2+euler", "fraction above 0 and up to 1"),
        ("euler@0+euler", "fraction above 0 and up to 1"),
        ("euler@0.6+euler@0.6", "fractions sum to 1.2"),
        ("euler@1+euler", "fractions sum to 1;"),
        ("0xeuler", "1 or more repetitions"),
        ("nothing", "is not one of euler, midpoint"),
        ("nothing+euler", "is not one of euler, midpoint"),
        ("generic2-0", "node above 0 and up to 1"),
        ("generic2-1.1", "node above 0 and up to 1"),
        ("generic2-a", "node above 0 and up to 1"),
        ("2xgeneric2-1.1", "node above 0 and up to 1"),
        ("1xeuler@.", "'.' is not a number"),
        ("1001xeuler", "at most 1000 evaluations in one step, not 1001"),
        ("501xheun", "at most 1000 evaluations in one step, not 1002"),
        ("10000xeuler", "at most 1000 evaluations"),
    ],
)
def test_bad_solver_strings_are_explained(bad, message):
    with pytest.raises(UserError, match=message):
        tableau(bad)


def test_the_most_stages_are_allowed():
    assert tableau("1000xeuler").stages == 1000 == tableau("0500xheun").stages


@pytest.mark.parametrize("solver", [*SOLVERS, "ralston3", "2xmidpoint+1xeuler@0.2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_times_are_exact_beside_states_in_reduced_precision(solver, dtype):
    """A time of bfloat16 would be off by 0.4 %: those of a solver are float32 at least."""
    seen = []

    def velocity(z, t):
        assert z.dtype == dtype
        seen.append(t)
        return torch.ones_like(z)

    grid = [0.0, 0.1, 0.7, 1.0]
    z = solve(velocity, torch.zeros(2, 3, dtype=dtype), grid, solver)
    assert z.dtype == dtype and all(
        t.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) for t in seen
    )
    table = tableau(solver)
    wanted = [t + c * (r - t) for t, r in zip(grid, grid[1:], strict=False) for c in table.c]
    found = torch.stack(seen).double()
    torch.testing.assert_close(
        found, torch.tensor(wanted, dtype=torch.float64)[:, None].expand(-1, 2), atol=1e-7, rtol=0
    )
    seen.clear()
    # a grid of each sample likewise
    solve(velocity, torch.zeros(1, 3, dtype=dtype), torch.tensor(grid).double()[:, None], solver)
    torch.testing.assert_close(torch.stack(seen).double(), found[:, :1], atol=1e-7, rtol=0)


def test_the_grids_of_f5_and_cosyvoice():
    for steps, grid in EPSS.items():
        assert grid[0] == 0 and grid[-1] == 32 and len(grid) == steps + 1
        assert f5_times(steps, None) == [k / 32 for k in grid]
    # its pruned steps: the widths, in units of 1/32
    widths = {5: "2 2 4 8 16", 6: "2 2 2 2 8 16", 7: "2 2 2 2 8 8 8", 10: "2 2 2 2 4 4 4 4 4 4"}
    widths |= {12: "2 2 2 2 2 2 2 2 4 4 4 4", 16: "1 1 1 1 1 1 1 1 2 2 2 2 4 4 4 4"}
    for steps, text in widths.items():
        assert [b - a for a, b in zip(EPSS[steps], EPSS[steps][1:], strict=False)] == [
            int(width) for width in text.split()
        ]
    assert set(widths) == set(EPSS)
    assert f5_times(7, None, epss=False) == [k / 7 for k in range(8)]
    assert f5_times(3) == f5_times(3, -1.0) == pytest.approx([0, 0.1339746, 0.5, 1])
    assert f5_times(5) == pytest.approx(
        [0, 0.0048153, 0.0192147, 0.0761205, 0.2928932, 1], abs=1e-6
    )
    assert len(f5_times()) == 33 and f5_times()[16] == pytest.approx(0.2928932)
    assert cosine_times() == cosine_times(10) == sway(10, -1.0)
    assert cosine_times(2)[1] == pytest.approx(0.2928932)


def test_the_grids_of_flowse_and_meanflowse():
    assert meanflowse_times(2) == pytest.approx([0, 0.485, 0.97])
    assert meanflowse_times(1, t_end=0) == [0, 1]
    assert meanflowse_times(2, t_rev=0.8, t_end=0.2) == pytest.approx([0.2, 0.5, 0.8])
    assert flowse_times(2) == pytest.approx([0, 0.97, 1])
    assert flowse_times(3, t_rev=0.8, t_eps=0.2) == pytest.approx([0.2, 0.5, 0.8, 1])
    # without a last step of length 0
    assert flowse_times(3, t_eps=0) == pytest.approx([0, 0.5, 1])
    assert flowse_times(1) == [0, 1]
    for times in (meanflowse_times, flowse_times):
        for steps in (0, -1):
            with pytest.raises(UserError):
                times(steps)
