"""Every diagnostic on samplers whose fault is known, and the page that says what each catches."""

import pytest

from benchmarks.diagnostics import (
    BIMODAL_FAULTS,
    DIAGNOSTICS,
    FAULTS,
    GAUSSIAN_FAULTS,
    Toy,
    cannot_see,
    complete,
    main,
    measure,
)


@pytest.fixture(scope="module")
def toy():
    return Toy.make()


@pytest.mark.parametrize("fault", [f for f in FAULTS if not f.startswith("exact")])
def test_faults_are_caught(toy, fault):
    """By every diagnostic that is not named as blind to them, at 500 trials; and the named ones are."""
    trials, blind = toy.trials(fault), cannot_see(fault)
    for name, diagnostic in DIAGNOSTICS.items():
        p = diagnostic(trials, 0)
        assert (p > 1e-3) if name in blind else (p < 0.01), (name, p)


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.startswith("exact")])
def test_exact_samples_pass(toy, fault):
    trials = toy.trials(fault, 200)
    found = {name: d(trials, 0) for name, d in DIAGNOSTICS.items()}
    assert min(found.values()) * len(found) > 0.01, found


@pytest.mark.slow
@pytest.mark.parametrize("fault", [f for f in FAULTS if f.startswith("exact")])
def test_exact_samples_pass_in_95_of_100_repetitions(fault):
    for name, values in measure(fault, 100).items():
        assert sum(p > 0.01 for p in values) >= 95, name


def test_the_benchmark_writes_its_table(tmp_path, capsys):
    page = tmp_path / "table.md"
    common = ["--repetitions", "1", "--trials", "60", "--out", str(page), "--results", str(tmp_path / "p.json")]
    main(common)
    first = page.read_text().splitlines()
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in first if line.startswith("| ")}
    assert len(rows) == 2 + len(DIAGNOSTICS)
    assert all(fault in "".join(first) for fault in (*GAUSSIAN_FAULTS, *BIMODAL_FAULTS))
    assert rows["| all together"][GAUSSIAN_FAULTS.index("prior only")] == "1.00"
    main([*common, "--renew", "reliability"])
    assert page.read_text().splitlines() == first


def test_a_stopped_run_goes_on(monkeypatch):
    """What is kept is not measured again, and the seed of a repetition is its number."""
    asked = []

    def fake(fault, repetitions, n, first, only):
        asked.append((first, repetitions, len(list(only))))
        return {name: [0.1 + r / 100 for r in range(first, first + repetitions)] for name in only}

    monkeypatch.setattr("benchmarks.diagnostics.measure", fake)
    kept = {name: [0.1, 0.11] for name in DIAGNOSTICS} | {"reliability": []}
    *_, last = complete(kept, "exact", 12, 60)
    assert asked == [(0, 10, len(DIAGNOSTICS)), (10, 2, len(DIAGNOSTICS))]
    assert all(values == pytest.approx([0.1 + r / 100 for r in range(12)]) for values in last.values())
    assert list(complete(kept, "exact", 12, 60)) == []
