"""From measured moments to a schedule with exactly the evaluations asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..forecast.moments import Moments
from ..forecast.reuse import Fitted, ReuseRule
from ..forecast.reuse.base import Weigh
from .plan import Plan, longest_run, spacing

#: Share of a forecast's error that taking it back leaves in the latent: the evaluation in between
#: saw the wrong latent, and its first-order correction is only measured on average (ours: with 0.2
#: what arrives per unit is the same for runs of one, two and three reuses on the bundled models).
AFTER_HINDSIGHT = 0.2

#: Power at which terminal gain enters (ours). Gains differ from clip to clip by more than the few
#: samples of a calibration tell, and large errors saturate. Chosen on clips that no table holds
#: (docs/theory.md, sections 3 and 8, has other powers).
#: That errors die out, a gain below 1, is not counted on: it would ask for long runs of reuse.
GAIN_POWER = 0.75

#: Most times that a plan is recomputed with each sample weighed by the inverse of its own error,
#: which turns the mean square into the mean in decibels (majorise-minimise; ours, not tuned).
REWEIGHTED = 3

#: Places within a step that its output's integral is taken by: two points of Gauss and Legendre.
WITHIN = (0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5)

#: Runs of reuse that are priced at once: bounds the memory that a plan takes, whatever its length.
BLOCK = 64
#: Stretches of a run whose moments are kept for the next plan (ours): those of a short run.
MOST_STRETCHES = 2


@dataclass(frozen=True)
class Round:
    """One evaluation round as the planner sees it.

    Attributes:
        t: time coordinate of the evaluation.
        weight: RMS by which the latent moves per RMS of output error, solver weight alone.
        t_after: time coordinate that the step leads to.
        forced: must be computed.
    """

    t: float
    weight: float
    t_after: float
    forced: bool = False


class Planner:
    """Costs of all runs of reuse between the rounds of one schedule, and the best way through.

    With output errors ``e_k`` the final latent errs, to first order, by the sum over reused rounds
    of (solver weight) x (gain) x ``e_k``. Within a run of reuse the errors add up as vectors, since
    they share the outputs they are forecast from; different runs are taken as independent, so that
    the cost of a schedule is a sum over its runs, each depending on the two evaluations before it
    and the one after. Dynamic programming over (previous, last) evaluation finds the optimum.

    A rule that reads three outputs is planned with as if the oldest lay as far before the second as
    that one before the newest; what is expected of a mask, once chosen, takes the true places.

    Args:
        rounds: of the sampler, in order.
        moments: of the model.
        longest: reuses allowed in a row.
        hindsight: whether runs of reuse are taken back by interpolation.
        risk: 0 plans for the mean over samples in decibels, 1 for the worst of them.
        rule: that makes the missing outputs, bound; ``None``: the fitted one.
        to_truth: whether the latent is moved by the integral of the outputs, see
            ``run/integral.py``. Then steps from computed outputs err too, by what the outputs
            within them are from the forecast and, once the next is known, from the interpolation.
    """

    def __init__(
        self,
        rounds: Sequence[Round],
        moments: Moments,
        longest: int,
        hindsight: bool = False,
        risk: float = 0.0,
        rule: ReuseRule | None = None,
        to_truth: bool = False,
    ) -> None:
        self.rounds, self.longest = tuple(rounds), longest
        self._times, ends = np.array([r.t for r in rounds]), np.array([r.t_after for r in rounds])
        self._own_step = to_truth  # whether that of a computed output errs
        within = np.array(WITHIN if to_truth else (0.0,))
        self._points = self._times[:, None] + (ends - self._times)[:, None] * within
        self._moments, self._rule = moments, rule or Fitted().bound(moments)
        solver = np.array([r.weight for r in rounds])
        gains = moments.gains_at([r.t_after for r in rounds])
        self._weights = solver * gains
        self._plan_weights = solver * np.maximum(gains, 1.0) ** GAIN_POWER
        self._hindsight, self._risk = hindsight, risk
        self._begun: dict[int, Plan] = {}  # plans of whole runs, by evaluations
        self._stretches: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, Weigh]] = {}

    @cached_property
    def _squares(self) -> np.ndarray:
        """``[S, n, R + 1, R + 1]``: expected square error of each sample's final latent from the
        run of reuse after evaluation ``i``, whose predecessor lies ``back`` rounds earlier (0: it
        has none), ended by an evaluation ``ahead`` rounds later; infinite where it is not allowed.
        """
        count, reach = len(self.rounds), self.longest + 1
        squares = np.full((len(self._weights), count, reach + 1, reach + 1), np.inf)
        squares[..., 1] = 0.0
        if reach == 1 and not self._own_step:
            return squares
        forced = np.cumsum([0, *(r.forced for r in self.rounds)])
        back = np.arange(reach + 1)[:, None]
        older = back * np.arange(self._rule.history - 1, -1, -1)
        for first in range(0, count, BLOCK):
            last = np.arange(first, min(first + BLOCK, count))
            known = np.maximum(last[:, None, None] - older, 0)
            for ahead, block in self._growing(self._plan_weights, known, reach):
                end = np.minimum(last + ahead, count)
                allowed = (last + ahead <= count) & (forced[end] == forced[last + 1])
                allowed = allowed[:, None] & (back[:, 0] <= last[:, None])
                squares[:, last, :, ahead] = np.where(allowed, block, np.inf).swapaxes(0, 1)
        return squares

    def _growing(
        self, weights: np.ndarray, known: np.ndarray, reach: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Square errors of the final latent from runs of reuse, as they grow longer.

        Args:
            weights: ``[S, n]`` of each round's forecast error in the final latent.
            known: ``[P, B, h]`` evaluations before each run, the newest last and the same in all
                ``B``; one that is listed twice counts once.
            reach: distance from there to the end of the longest run.

        Yields:
            Distance to the evaluation, or end of the sampler, that ends a run, and ``[S, P, B]``.
            What lies beyond the last round is to be ignored.
        """
        start, last = int(known.min()), known[:, 0, -1]
        stop = min(int(last.max()) + reach + 1, len(self.rounds))
        weights, known, last = weights[:, start:stop], known - start, last - start
        end = stop - start - 1
        places, grams, weigh = self._within(start, stop)
        first = 0 if self._own_step else 1
        steps = np.minimum(last[:, None] + np.arange(first, reach), end)
        missed, each = places[steps].reshape(len(last), -1), places.shape[1]
        forecast = weigh(known, _each(missed, known))[..., :-1]
        # A run's error is the sum over its rounds of weight x (forecast - output). A forecast's
        # weights sum to 1, so all outputs may be taken as changes since the last known one, whose
        # own is none: ``own`` is the square of the outputs' part, ``across`` its products.
        older, base, place = known[..., :-1], grams[:, last], np.arange(len(last))
        inner, own, across, held = _changes(grams, older, last), 0.0, np.zeros_like(base), 0.0
        shares = weights[:, steps].repeat(each, axis=-1) / each
        for ahead in range(first + 1, reach + 1):
            upto = (ahead - first) * each
            for number in range(upto - each, upto):
                k, weight = missed[:, number], shares[:, :, number]
                row = grams[:, k] - base
                row -= row[:, place, last][..., None]
                own = own + 2 * weight * across[:, place, k]
                own = own + weight**2 * row[:, place, k]
                across = across + weight[:, :, None] * row
                held = held + weight[:, :, None, None] * forecast[:, :, number]
            square = _square(held, inner, across, older, own)
            if self._hindsight:
                closed = np.minimum(last + ahead, end)
                ends = _each(closed[:, None], known)
                wanted = _each(missed[:, :upto], known)
                between = weigh(np.concatenate([known, ends], axis=-1), wanted)
                between = np.delete(between, -2, axis=-1)
                taken = np.einsum("spk,pbkm->spbm", shares[:, :, :upto], between)
                around = np.concatenate([older, ends], axis=-1)
                kept = _square(taken, _changes(grams, around, last), across, around, own)
                kept = np.minimum(kept + AFTER_HINDSIGHT**2 * square, square)
                square = np.where((last + ahead <= end)[:, None], kept, square)
            yield ahead, square

    def _within(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, Weigh]:
        """Of the rounds ``start`` to ``stop``: places of their points among all times, moments at
        these, weights of forecasts among them. The last ones asked for are kept.
        """
        if (start, stop) in self._stretches:
            return self._stretches[start, stop]
        points, count = self._points[start:stop], stop - start
        if self._own_step:
            times = np.concatenate([self._times[start:stop], points.ravel()])
            places = count + np.arange(points.size).reshape(points.shape)
        else:
            times, places = self._times[start:stop], np.arange(count)[:, None]
        if len(self._stretches) >= MOST_STRETCHES:
            self._stretches.clear()
        found = places, self._moments.at(times), self._rule.among(times)
        self._stretches[start, stop] = found
        return found

    def _costs(self, share: np.ndarray) -> np.ndarray:
        """``[n, R + 1, R + 1]``: as :attr:`_squares`, of the samples together."""
        mean = np.tensordot(share, self._squares, axes=1)
        if self._risk == 0:
            return mean
        worst = self._squares.max(axis=0)  # alone at risk 1: nothing times infinity is no number
        return worst if self._risk == 1 else (1 - self._risk) * mean + self._risk * worst

    def fewest(self) -> int:
        """Evaluations that forced rounds and the longest run leave no way around."""
        count, run = 1, 0
        for one in self.rounds[1:]:
            count, run = (count + 1, 0) if one.forced or run == self.longest else (count, run + 1)
        return count

    def plan(
        self,
        evaluations: int,
        done: Sequence[int] = (0,),
        hardness: np.ndarray | None = None,
        anew: bool = False,
    ) -> Plan:
        """The best schedule of exactly ``evaluations`` evaluations.

        Args:
            evaluations: of the whole run, those of ``done`` among them.
            done: rounds evaluated so far; everything up to the last of them has happened.
            hardness: ``[n]`` factor on the cost of the run of reuse after each round, from what the
                run has shown; ``None``: as measured in calibration.
            anew: whether forecasts know the last of ``done`` alone.

        Raises:
            ValueError: no schedule of that many evaluations obeys forced rounds and longest run.
        """
        if hardness is not None or anew or tuple(done) != (0,):
            return self._search(evaluations, done, hardness, anew)
        if evaluations not in self._begun:
            self._begun[evaluations] = self._search(evaluations, done, None, False)
        return self._begun[evaluations]

    def _search(
        self, evaluations: int, done: Sequence[int], hardness: np.ndarray | None, anew: bool
    ) -> Plan:
        """The plan of :meth:`plan`."""
        left = evaluations - len(done) + 1  # the last one of ``done`` is where the search starts
        samples = len(self._weights)
        share, mask = np.full(samples, 1 / samples), None
        for _ in range(REWEIGHTED + 1):
            costs = self._costs(share)
            if hardness is not None:
                costs = costs * hardness[:, None, None]
            before, mask = mask, self._way(costs, done, left, anew) if left > 0 else None
            if mask is None:
                count, most = len(self.rounds), self.longest
                raise ValueError(
                    f"no plan of {evaluations} evaluations in {count} rounds obeys the forced "
                    f"rounds and runs of at most {most} reuses"
                )
            if mask == before:
                break
            errors = self.errors(mask)
            if not np.isfinite(errors).all():  # what has happened breaks the longest run
                break
            each = np.maximum(errors, 1e-12) ** -2
            share = each / each.sum()
        return self.describe(mask)

    def _way(
        self, costs: np.ndarray, done: Sequence[int], left: int, anew: bool
    ) -> list[bool] | None:
        """The cheapest mask with ``left`` evaluations from the last of ``done`` on, if any."""
        count, reach, first = len(self.rounds), self.longest + 1, done[-1]
        # Evaluation number k from there lies in first + k + (0 .. slack): rounds must be left.
        slack = count - first - left
        if slack < 0:
            return None
        onward = np.ascontiguousarray(costs[first:, :, 1:].transpose(1, 2, 0))
        state = np.full((reach + 1, slack + 1), np.inf)  # by distance before, and place
        state[0 if anew or len(done) < 2 else min(first - done[-2], reach), 0] = 0.0
        trail = [state]
        for number in range(left - 1):
            ways = (state[:, None] + onward[:, :, number : number + slack + 1]).min(axis=0)
            state = np.full_like(state, np.inf)
            for ahead in range(1, min(reach, slack + 1) + 1):
                state[ahead, ahead - 1 :] = ways[ahead - 1, : slack + 2 - ahead]
            trail.append(state)
        last = np.arange(max(first + left - 1, count - reach), count)
        ends = state[:, last - first - left + 1].T + costs[last, :, count - last]
        place, back = np.unravel_index(ends.argmin(), ends.shape)
        if not np.isfinite(ends[place, back]):
            return None
        mask, i = [k in done for k in range(count)], int(last[place])
        for number in range(left - 2, -1, -1):
            mask[i], i, ahead = True, i - back, back
            ways = trail[number][:, i - first - number] + costs[i, :, ahead]
            back = int(ways.argmin())
        return mask

    def errors(self, mask: Sequence[bool]) -> np.ndarray:
        """``[S]`` RMS errors that plans are chosen by; infinite if the mask is not allowed."""
        done, backs, aheads = spacing(mask)
        if longest_run(mask) > self.longest:
            return np.full(len(self._weights), np.inf)
        return np.sqrt(self._squares[:, done, backs, aheads].sum(axis=1))

    def expected(self, mask: Sequence[bool]) -> np.ndarray:
        """``[S]`` expected RMS error of each sample's final latent, gains in full."""
        done, _, aheads = map(np.array, spacing(mask))
        known, total = self._before(done)[:, None], np.zeros(len(self._weights))
        runs = np.flatnonzero(aheads > (0 if self._own_step else 1))
        for part in (runs[i : i + BLOCK] for i in range(0, len(runs), BLOCK)):
            ends = aheads[part]
            for ahead, squares in self._growing(self._weights, known[part], ends.max()):
                total += squares[:, ends == ahead, 0].sum(axis=1)
        return np.sqrt(np.maximum(total, 0))

    def _before(self, done: np.ndarray) -> np.ndarray:
        """``[D, h]`` what is known at each evaluation of ``done``, filled up with its oldest."""
        places = np.arange(len(done))[:, None] - np.arange(self._rule.history - 1, -1, -1)
        return done[np.maximum(places, 0)]

    def describe(self, mask: Sequence[bool]) -> Plan:
        """A plan with the relative forecast errors to be expected along ``mask``."""
        done, errors = np.flatnonzero(mask), [np.array([np.nan])]
        before = self._before(done)
        for first in range(1, len(mask), BLOCK):
            wanted = np.arange(first, min(first + BLOCK, len(mask)))
            known = before[np.searchsorted(done, wanted) - 1]
            errors.append(self._relative(known, wanted))
        error = _mean(self.expected(mask))
        skipping = math.sqrt(max(error**2 - self._missed**2, 0.0))
        relative = tuple(np.concatenate(errors).tolist())
        return Plan(tuple(mask), error, relative, skipping=skipping)

    @cached_property
    def _missed(self) -> float:
        """Error of the final latent if every round is computed: what the sampler itself misses."""
        return _mean(self.expected([True] * len(self.rounds))) if self._own_step else 0.0

    def _relative(self, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """``[P]`` errors of the leading branch's forecasts for ``wanted``, from ``[P, h]``."""
        start = int(known.min())
        times = self._times[start : wanted[-1] + 1]
        lead, weigh = self._moments.lead_at(times), self._rule.among(times)
        known, wanted = known - start, wanted[:, None] - start
        rows = np.concatenate([weigh(known, wanted)[:, 0], -np.ones_like(wanted)], axis=1)
        window = np.concatenate([known, wanted], axis=1)
        squares = np.einsum(
            "pn,pnm,pm->p", rows, lead[window[:, :, None], window[:, None, :]], rows
        )
        size = np.sqrt(np.maximum(lead[wanted[:, 0], wanted[:, 0]], 1e-300))
        return np.sqrt(np.maximum(squares, 0)) / size


def _mean(errors: np.ndarray) -> float:
    """Geometric mean over samples."""
    return float(np.exp(np.log(np.maximum(errors, 1e-12)).mean()))


def _each(places: np.ndarray, known: np.ndarray) -> np.ndarray:
    """``[P, K]`` places, repeated ``[P, B, K]`` for each way that outputs are known in."""
    return np.broadcast_to(places[:, None], (*known.shape[:2], places.shape[1]))


def _changes(grams: np.ndarray, known: np.ndarray, last: np.ndarray) -> np.ndarray:
    """``[S, P, B, m, m]`` products of the outputs ``known``, as changes since ``last`` ``[P]``."""
    inner = grams[:, known[..., :, None], known[..., None, :]]
    cross = grams[:, known, last[:, None, None]]
    base = grams[:, last, last][..., None, None, None]
    return (inner - cross[..., :, None]) - (cross[..., None, :] - base)


def _square(
    part: np.ndarray, inner: np.ndarray, across: np.ndarray, known: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """``[S, P, B]`` square of (known outputs, weighed by ``part``) - (what was missed).

    Args:
        part: ``[S, P, B, m]``.
        inner: ``[S, P, B, m, m]`` products of the known outputs.
        across: ``[S, P, N]`` products of what was missed with all outputs.
        known: ``[P, B, m]`` places of the known among all.
        own: ``[S, P]`` square of what was missed.
    """
    cross = across[:, np.arange(len(known))[:, None, None], known]
    square = np.einsum("spbn,spbnm,spbm->spb", part, inner, part)
    return np.maximum(square - 2 * (part * cross).sum(axis=-1) + own[:, :, None], 0)
