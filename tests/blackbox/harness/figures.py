"""What pipelines compute, computed once more by others: pandas parts events into windows, Python's exact sums and fractions, and numpy,
say what is in them, and small loops say what alarms and anomalies there are. All by what the documents and the
operators' headers say, nothing by the daemon's code.
"""

import math
import statistics
from fractions import Fraction

import numpy
import pandas

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def series(events, field):
    """The values of a field over time."""
    return pandas.Series([float(event["data"][field]) for event in events], pandas.to_datetime([event["ms"] for event in events], unit="ms"))


def _ms(moment):
    return moment.value // 1_000_000


def times(values):
    """The times of a series, in milliseconds since 1970."""
    return [_ms(moment) for moment in values.index]


def slope(ms, values):
    """Of the least-squares line, per second; exact, rounded once. None where all is at one time."""
    seconds, exact = [Fraction(one, 1000) for one in ms], [Fraction(value) for value in values]
    time, mean = sum(seconds) / len(ms), sum(exact) / len(exact)
    squares = sum((one - time) ** 2 for one in seconds)
    return float(sum((one - time) * (value - mean) for one, value in zip(seconds, exact)) / squares) if squares else None


def figures(ms, values):
    """All figures of these values, which happened at these times, in ascending order."""
    array = numpy.array(values)
    return {
        "count": len(values), "sum": math.fsum(values), "mean": math.fsum(values) / len(values), "min": array.min(), "max": array.max(),
        "first": values[0], "last": values[-1], "delta": values[-1] - values[0], "distinct": len(set(values)),
        "stddev": statistics.pstdev(values), "trend": slope(ms, values),
        **{name: numpy.quantile(array, q, method="lower") for name, q in QUANTILES.items()},
    }


def tumbling(values, size, offset=None):
    """(start, end, values) of each window of this size that has any."""
    windows = values.resample(size, origin="epoch", offset=offset, closed="left", label="left")
    return [(_ms(start), _ms(start + pandas.Timedelta(size)), window) for start, window in windows if len(window)]


def sliding(values, size, every):
    """The same of windows that overlap; their ends lie between the values as places without one."""
    first, last = (moment.floor(every) for moment in (values.index[0], values.index[-1]))
    ends = pandas.date_range(first + pandas.Timedelta(every), last + pandas.Timedelta(size), freq=every)
    both = values.reindex(values.index.union(ends))
    windows = zip(both.index, both.rolling(size, closed="left", min_periods=0))
    return [(_ms(end - pandas.Timedelta(size)), _ms(end), window.dropna()) for end, window in windows if end in ends and window.count()]


def sessions(values, gap, longest=None):
    """The same of runs of values with less than `gap` between each and the next, none of them as long as `longest`."""
    gap, longest = pandas.Timedelta(gap), pandas.Timedelta(longest or "24h")
    runs = values.groupby((values.index.to_series().diff() >= gap).cumsum().to_numpy())
    found = []
    for _, run in runs:
        while len(run):
            session = run[run.index < run.index[0] + longest]
            end = min(session.index[-1] + gap, session.index[0] + longest)
            found.append((_ms(session.index[0]), _ms(end), session))
            run = run[len(session):]
    return found


def alarms(ms, values, until_ms, above=None, below=None, clear_above=None, clear_below=None, hold=0, hold_clear=0):
    """When alarms start and are over: a clock that goes by milliseconds and looks at the value each time. (time, reason, state, value, since)."""
    found = []
    for reason, limit, clear, sign in [("above", above, clear_above, 1), ("below", below, clear_below, -1)]:
        if limit is None:
            continue
        clear = limit if clear is None else clear
        at, value, alarm, since = 0, None, None, None
        for now in range(ms[0], until_ms + 1):
            # What is reached at the moment of a new value was reached by the one before it.
            for turn, new in enumerate([value, *([values[at]] if at < len(ms) and ms[at] == now else [])]):
                if turn:
                    at += 1
                value = new
                if value is None:
                    continue
                wanted = sign * value > sign * limit if alarm is None else sign * value <= sign * clear
                since = None if not wanted else now if since is None else since
                if since is not None and now - since >= (hold if alarm is None else hold_clear):
                    started = alarm is None
                    alarm, first = (now, now) if started else (None, alarm)
                    found.append((now, turn, started, (now, reason, "started" if started else "cleared", value, first)))
                    since = None
    # Of two at once that which is over comes first.
    return [alarm for *_, alarm in sorted(found, key=lambda alarm: alarm[:3])]


def middle(pairs):
    """The weighted median of pairs of a value and a weight."""
    half, weights = sum(weight for _, weight in pairs) / 2, 0
    for value, weight in sorted(pairs):
        weights += weight
        if weights >= half:
            return value


def judged(newest_first, value, half_life, threshold, min_deviation):
    """Where a value lies among those before it: median, deviation, score."""
    pairs = [(other, int(2 ** (32 - place / half_life))) for place, other in enumerate(newest_first)]
    median = middle(pairs)
    mad = middle([(abs(other - median), weight) for other, weight in pairs])
    deviation = max(1.4826 * mad, min_deviation / threshold, 1e-9 * abs(median))
    return median, deviation, (value - median) / deviation


def anomalies(ms, values, samples=128, half_life=None, threshold=4.0, min_deviation=0.0, warm_up=16, learn="all", relearn=20, direction="both",
              season=None, slots=24, emit="changes"):
    """What `anomaly` tells: (time, state, value, median, deviation, score, since)."""
    half_life = half_life or samples // 4
    learned, rows, learning, found, since = {}, {}, {}, [], None
    for now, value in zip(ms, values):
        slot = min(now % season // (season // slots), slots - 1) if season else 0
        known, row = learned.setdefault(slot, []), rows.setdefault(slot, [])
        anomalous = None
        if len(known) >= warm_up:
            median, deviation, score = judged(known, value, half_life, threshold, min_deviation)
            wanted = {"both": True, "above": score > 0, "below": score < 0}[direction]
            anomalous = wanted and abs(score) >= threshold and abs(value - median) >= min_deviation
        if learn == "normal" and not anomalous:
            row.clear()
            learning[slot] = False
        new = [value]
        if learn == "normal" and anomalous and not learning.get(slot):
            row.append(value)
            new = []
            if len(row) >= relearn:
                new, learning[slot] = list(row), True
                row.clear()
        learned[slot] = [*reversed(new), *known][:samples]
        if anomalous is None:
            continue
        before, since = since, (since if since is not None else now) if anomalous else None
        if emit == "each":
            state = "anomalous" if anomalous else None
        else:
            state = "started" if anomalous and before is None else "cleared" if before is not None and not anomalous else None
        if state:
            found.append((now, state, value, median, deviation, score, since if anomalous else before))
    return found


def difference(old, new):
    """The smallest merge patch that makes the one object of the other."""
    patch = {name: None for name in old if name not in new}
    for name, value in new.items():
        if name not in old:
            patch[name] = value
        elif isinstance(value, dict) and isinstance(old[name], dict):
            if inner := difference(old[name], value):
                patch[name] = inner
        elif old[name] != value:
            patch[name] = value
    return patch


def late(events, size_ms, disorder_ms, lateness_ms=0):
    """What windows of this size tell of events as they come, by a loop over all of them: [(start, updated, [(ms, usage)])]; and the times
    of those that come too late."""
    newest, windows, closed, told, refused = 0, {}, set(), [], []

    def tell(start, updated):
        told.append((start, updated, sorted(windows[start])))

    for event in events:
        newest = max(newest, event["ms"])
        reached = newest - disorder_ms
        for start in sorted(windows):
            if start + size_ms <= reached and start not in closed:
                closed.add(start)
                tell(start, False)
        start = event["ms"] // size_ms * size_ms
        if start + size_ms + lateness_ms <= reached:
            refused.append(event["ms"])
            continue
        again = start in windows
        windows.setdefault(start, []).append((event["ms"], float(event["data"]["usage"])))
        if start + size_ms <= reached:
            closed.add(start)
            tell(start, again)
    for start in sorted(windows):
        if start not in closed:
            tell(start, False)
    return told, refused


def running(ms, values):
    """The figures of the first value, of the first two, and so on. Sums and squares are exact, so that nothing gathers."""
    found, total, squares = [], Fraction(0), Fraction(0)
    expanding = pandas.Series(values).expanding()
    for n, (value, least, greatest) in enumerate(zip(values, expanding.min(), expanding.max()), 1):
        total, squares = total + Fraction(value), squares + Fraction(value) ** 2
        array = numpy.array(values[:n])
        found.append({
            "count": n, "rate": (n - 1) * 1000 / (ms[n - 1] - ms[0]) if n > 1 else None, "sum": float(total), "mean": float(total / n),
            "min": least, "max": greatest, "last": value, "distinct": len(set(values[:n])), "stddev": math.sqrt(squares / n - (total / n) ** 2),
            **{name: numpy.quantile(array, q, method="lower") for name, q in QUANTILES.items()},
        })
    return found
