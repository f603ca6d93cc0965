"""When each frame begins each task of a line: by servers in a row, frame by frame, or event by event. All three agree where they apply."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Literal

import numpy as np

from splitplan.simulator.pipeline_line import Line

Turns = Literal["first", "oldest"]
"""Of several that wait for one resource, whose turn it is: who asked first, or the oldest frame's."""


def start_times(line: Line, arrive_s: np.ndarray, seconds: np.ndarray, turns: Turns = "first") -> np.ndarray:
    """When each frame begins each task, by the quickest way that the line allows.

    Parameters
    ----------
    line : Line
    arrive_s : array, shape (frames,)
        Ascending.
    seconds : array, shape (frames, tasks)
    turns : {"first", "oldest"}

    Returns
    -------
    array, shape (frames, tasks)
    """
    if line.runs is not None:
        return by_servers(line, arrive_s, seconds)
    return by_frames(line, arrive_s, seconds) if line.fixed else by_events(line, arrive_s, seconds, turns)[0]


def by_servers(line: Line, arrive_s: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Servers in a row without limits between them: Lindley's recursion, all frames at once."""
    if line.runs is None:
        raise ValueError("the line is no row of servers")
    start = np.empty_like(seconds)
    at = arrive_s
    for run in line.runs:
        begin = _served(at, seconds[:, run].sum(axis=1))
        for k in range(run.start, run.stop):
            start[:, k] = begin
            begin = begin + seconds[:, k]
        last = line.tasks[run.stop - 1]
        at = (start[:, run.stop - 1] if last.flows else begin) + last.delay_s
    return start


def _served(ready: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """When a server that takes one frame at a time begins each: b_f = max(r_f, b_{f−1} + s_{f−1})."""
    until = np.cumsum(seconds)
    ends = np.maximum.accumulate(ready - (until - seconds)) + until
    begin: np.ndarray = ready.copy()
    np.maximum(begin[1:], ends[:-1], out=begin[1:])
    return begin


def by_frames(line: Line, arrive_s: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """A max-plus recursion, frame by frame: each task begins when its frame is there and earlier frames have left the room it needs."""
    if not line.fixed:
        raise ValueError("the order in which the line's tasks are served is not fixed")
    count = len(line.tasks)
    starts: list[list[float]] = [[] for _ in range(count)]
    ends: list[list[float]] = [[] for _ in range(count)]
    waits: list[list[tuple[list[float], int]]] = [[] for _ in range(count)]
    for who in line.users.values():
        if len(who) == 1:
            waits[who[0]].append((ends[who[0]], 1))
    for s in line.slots:
        waits[s.taken].append(((ends if s.at_end else starts)[s.freed], s.room))
    steps = [
        (k, waits[k], starts[k].append, ends[k].append, task.flows, task.delay_s) for k, task in enumerate(line.tasks)
    ]
    for f, (at, row) in enumerate(zip(arrive_s.tolist(), seconds.tolist(), strict=True)):
        for k, rooms, begun, ended, flows, delay in steps:
            begin = at
            for column, room in rooms:
                if f >= room and column[f - room] > begin:
                    begin = column[f - room]
            end = begin + row[k]
            begun(begin)
            ended(end)
            at = (begin if flows else end) + delay
    return np.array(starts).T


def by_events(line: Line, arrive_s: np.ndarray, seconds: np.ndarray, turns: Turns = "first") -> tuple[np.ndarray, int]:
    """Event by event: a task begins as soon as it can; of several that could, the one whose turn it is.

    Nothing is held back for a frame that is not there yet. Every task takes frames in their order. A task asks for what it holds when
    its frame is there and has all the room that it needs; of those that asked at the same moment, the oldest frame's is first.

    Returns
    -------
    start : array, shape (frames, tasks)
    events : int
        At most twice the tasks of all frames, and their arrivals.
    """
    frames, count = seconds.shape
    tasks, takes = line.tasks, seconds.T.tolist()
    starts: list[list[float]] = [[] for _ in tasks]
    begun, ended, passed = [0] * count, [0] * count, [0] * count
    arrivals, arrived = arrive_s.tolist(), [0]
    # What must have come by before frame f asks: more than f frames, or more than f − room, through each of these counters.
    needs: list[list[tuple[list[int], int, int]]] = [
        [(passed, j, 0) for j in t.after] or [(arrived, 0, 0)] for t in tasks
    ]
    for s in line.slots:
        needs[s.taken].append((ended if s.at_end else begun, s.freed, s.room))
    names = {r: i for i, r in enumerate(line.users)}
    holds = [[names[r] for r in t.holds] for t in tasks]
    users, busy = list(line.users.values()), [False] * len(names)
    # Which tasks may have something to ask for once a task begins, ends, is passed.
    at_begin = [[s.taken for s in line.slots if s.freed == k and not s.at_end] for k in range(count)]
    at_pass = [[j for j in range(count) if k in tasks[j].after] for k in range(count)]
    at_end = [[s.taken for s in line.slots if s.freed == k and s.at_end] for k in range(count)]
    at_once = [not t.flows and t.delay_s == 0 for t in tasks]
    entries = [k for k, t in enumerate(tasks) if not t.after]
    asked: list[list[float]] = [[] for _ in tasks]
    by_age = turns == "oldest"

    def turn(k: int) -> tuple[float, int, int]:
        return (0.0 if by_age else asked[k][begun[k]]), begun[k], k

    heap: list[tuple[float, int]] = [(arrivals[0], -1)]  # −1: arrivals; k: a task ends; count + k: it is passed
    events = 0
    while heap:
        now = heap[0][0]
        woken: set[int] = set()  # may have something to ask for
        ready: set[int] = set()  # have asked
        while heap and heap[0][0] == now:
            what = heappop(heap)[1]
            events += 1
            if what < 0:
                while arrived[0] < frames and arrivals[arrived[0]] <= now:
                    arrived[0] += 1
                if arrived[0] < frames:
                    heappush(heap, (arrivals[arrived[0]], -1))
                woken.update(entries)
            elif what < count:
                ended[what] += 1
                for r in holds[what]:
                    busy[r] = False
                    ready.update([k for k in users[r] if begun[k] < len(asked[k])])
                woken.update(at_end[what])
                if at_once[what]:
                    passed[what] += 1
                    woken.update(at_pass[what])
                elif not tasks[what].flows:
                    heappush(heap, (now + tasks[what].delay_s, count + what))
            else:
                passed[what - count] += 1
                woken.update(at_pass[what - count])
        while woken or ready:
            for k in woken:
                mine, f = asked[k], len(asked[k])
                while f < frames:
                    for counter, j, room in needs[k]:
                        if counter[j] + room <= f:
                            break
                    else:
                        mine.append(now)
                        f += 1
                        continue
                    break
                if begun[k] < f:
                    ready.add(k)
            woken.clear()
            for k in sorted(ready, key=turn) if len(ready) > 1 else tuple(ready):
                ready.remove(k)
                for r in holds[k]:
                    if busy[r]:
                        break
                else:
                    lasts = takes[k][begun[k]]
                    starts[k].append(now)
                    begun[k] += 1
                    woken.update(at_begin[k])
                    if tasks[k].flows:
                        heappush(heap, (now + tasks[k].delay_s, count + k))
                    if lasts > 0 or not at_once[k]:
                        for r in holds[k]:
                            busy[r] = True
                        heappush(heap, (now + lasts, k))
                    else:
                        ended[k] += 1
                        passed[k] += 1
                        woken.update(at_end[k], at_pass[k], (k,))
                    if woken:
                        break
    assert all(b == frames for b in begun), "frames are stuck: the line's slots wait for each other"
    return np.array(starts).T, events
