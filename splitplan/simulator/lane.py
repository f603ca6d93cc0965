"""One policy over one scenario's slots: the arrays that the loop works on, and who decides. `simulate` has one lane, `simulate_many` a thousand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from splitplan.data.scenario import Slotted
from splitplan.data.slot import SlotState
from splitplan.policies.result import ROW, SUMS
from splitplan.policies.slot import Ahead, DecidesSlots, SlotPolicy, decided, follows_the_rule
from splitplan.simulator import kernel, rule
from splitplan.simulator.numbers import first_state, loose, rooms_for, rule_of, state_of

CHUNK = 100_000
"""Slots between two calls of ``progress``, where the loop is ours."""

FEW = 20
"""The same where a policy decides in Python."""


class Lane:
    """A run in the making.

    Parameters
    ----------
    policy : DecidesSlots
    slots : Slotted
    physical, start
        As in `splitplan.simulator.simulate.simulate`.
    trace : bool
        Whether every slot is kept.

    Attributes
    ----------
    latency_s : array, shape (frames,)
    trace : array, shape (slots, 8) or (0, 8)
    """

    def __init__(
        self, policy: DecidesSlots, slots: Slotted, *, physical: bool, trace: bool, start: SlotState | None = None
    ) -> None:
        self.policy, self.slots, self.physical = policy, slots, physical
        self.begun = SlotState() if start is None else start
        count = len(slots.arrive_s) if physical else 0
        self._own = follows_the_rule(policy)
        self._sees = 0 if self._own else int(getattr(policy, "sees", 0))
        made = policy if isinstance(policy, SlotPolicy) else SlotPolicy(policy.control)
        self._numbers = rule_of(made)
        self._state = loose(first_state(policy, start))
        self._frames = (
            loose(slots.arrive_s), loose(np.zeros(7, np.int64)), loose(np.zeros(count, np.int64)), loose(np.zeros(count, np.int64)), loose(np.zeros(count)), loose(np.zeros(count)), loose(np.zeros(3)),
            loose(np.full(count, np.inf)),
        )  # fmt: skip
        self._sums = loose(np.zeros(len(SUMS)))
        self.trace = np.zeros((len(slots.frames) if trace else 0, len(ROW)))
        self._slot = loose(np.zeros(3)), loose(np.zeros(3))
        self._rooms = rooms_for(made)

    def run(self, progress: Callable[[int, int], None] | None = None) -> None:
        """All slots."""
        count = len(self.slots.frames)
        step = CHUNK if self._own else FEW
        for first in range(0, count, step):
            last = min(first + step, count)
            if self._own:
                self._by_the_rule(first, last)
            else:
                for t in range(first, last):
                    self._by_the_policy(t)
            if progress is not None:
                progress(last, count)

    @property
    def latency_s(self) -> np.ndarray:
        """Of each frame; NaN: refused; inf: not answered yet."""
        return np.asarray(self._frames[-1])

    @property
    def sums(self) -> dict[str, float]:
        """Over the slots so far, see `splitplan.policies.result.SUMS`."""
        return dict(zip(SUMS, map(float, self._sums), strict=True))

    @property
    def left(self) -> tuple[float, float, float]:
        """Work left beyond what there was at the start: seconds of the device, bits, seconds of the server."""
        s, b = self._state, self.begun
        return (
            float(s[rule.DEVICE] - b.device_s),
            float(s[rule.UPLINK] - b.uplink_bits),
            float(s[rule.SERVER] - b.server_s),
        )

    # -- who decides -------------------------------------------------------------------------------------

    def _by_the_rule(self, first: int, last: int) -> None:
        """The loop's own rule, all slots at once."""
        frames, rates = loose(self.slots.frames[first:last]), loose(self.slots.rate_bps[first:last])
        kernel.run(
            self._numbers, self._state, frames, rates, self.physical, *self._frames, self._sums, self.trace[first:last], *self._slot, self._rooms
        )  # fmt: skip

    def _by_the_policy(self, t: int) -> None:
        """One slot; the queues work as they do by the rule."""
        arriving, channel = int(self.slots.frames[t]), float(self.slots.rate_bps[t])
        state = state_of(self.policy.control, self._state, arriving, channel)
        there = slice(t, t + 1 + self._sees)
        ahead = Ahead(self.slots.frames[there], self.slots.rate_bps[there]) if self._sees else None
        _, (k, n, f, j) = decided(self.policy, state, t, ahead)
        rule.see(self._numbers, self._state, channel)
        kernel.advance(
            self._numbers, self._state, arriving, channel, k, n, f, j, self.physical, *self._frames, self._sums, self.trace, t, *self._slot
        )  # fmt: skip
