"""What several benchmarks need: functions timed in turns, and a row of what they cost."""

import os
import statistics
import time


def equal(results):
    assert len(set(results.values())) == 1, f"not the same images: {results}"


def in_turns(functions, repeats, check=equal):
    """Seconds of each repeat, after one pass of each to warm up, whose results `check` looks at."""
    check({name: function() for name, function in functions.items()})
    seconds = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def row(what, baseline, ours, theirs, unit):
    """A row of costs, of which less is better: one of each side for each repeat."""
    return {
        "what": what,
        "baseline": baseline,
        "ratios": [there / here for here, there in zip(ours, theirs, strict=True)],
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "unit": unit,
    }


def speed_row(what, baseline, ours, theirs, unit):
    """A row of speeds, of which more is better."""
    ratios = [here / there for here, there in zip(ours, theirs, strict=True)]
    return {**row(what, baseline, ours, theirs, unit), "ratios": ratios}


def cores():
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
