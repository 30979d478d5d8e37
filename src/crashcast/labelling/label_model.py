"""Votes become probabilities: by majority, or by how often each source turns out to be right (Dawid and Skene).

Both work on vote patterns, of which there are few: what an event's probability is depends on its votes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import chdtri

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Votes = NDArray[np.int8]
Group = tuple[int, ...]  # positions of sources

ABSTAINS = -1
NO_CRASH, CRASH = 0, 1  # classes, and what is voted
TOLERANCE, MAX_ROUNDS = 1e-10, 5000
LEAST = 1e-12  # with a probability of 0 one vote would outweigh all others together
MIN_SOURCES = 3  # if two sources disagree, nothing says which of them errs
ERROR_OF_TESTS = 0.01  # the probability of reporting a dependence though all sources are independent


@dataclass(frozen=True)
class Estimate:
    """The fit of Dawid and Skene's model.

    Attributes
    ----------
    prevalence : float
        The share of crashes among the events.
    sensitivity, specificity : float arrays of shape (m,)
        The probability of each source's yes to a crash, and of its no to what is none.
    probability : float array of shape (n,)
        Of a crash, for each event.
    log_likelihood : float
    """

    prevalence: float
    sensitivity: Floats
    specificity: Floats
    probability: Floats
    log_likelihood: float


@dataclass(frozen=True)
class Dependence:
    """Two sources that err together more often, or less often, than independent ones would.

    Attributes
    ----------
    pair : (int, int)
        The positions of the sources.
    correlation : float
        Of their errors, given what happened. Above 0 they share errors; below 0 one errs if the other does not, as
        ticket systems do of which one is enough.
    log_ratio : float
        Twice the gain in log-likelihood if their answers are modelled jointly.
    """

    pair: tuple[int, int]
    correlation: float
    log_ratio: float


def matrix(votes: pl.DataFrame, events: int, sources: list[str]) -> Votes:
    """Lay votes out as (events, sources), `ABSTAINS` if there is none.

    Parameters
    ----------
    votes : DataFrame
        labelling_functions.VOTES; `event` counts from 0.
    events : int
        How many there are.
    sources : list of str
        The columns.
    """
    table = np.full((events, len(sources)), ABSTAINS, dtype=np.int8)
    column = votes["source"].cast(pl.Enum(sources)).to_physical().to_numpy()
    table[votes["event"].to_numpy(), column] = votes["vote"].to_numpy()
    return table


def majority(votes: Votes) -> Floats:
    """Return the share of yes among the votes of each event; of none, 0.

    Parameters
    ----------
    votes : int8 array of shape (n, m)
        See `matrix`.
    """
    cast = (votes != ABSTAINS).sum(axis=1)
    return np.asarray((votes == CRASH).sum(axis=1) / np.maximum(cast, 1))


def dawid_skene(votes: Votes, prior: float = 0.0) -> Estimate:
    """Estimate how reliable each source is, and from that how probable each event.

    Source: Dawid and Skene, Maximum likelihood estimation of observer error-rates using the EM algorithm, Applied
    Statistics 28(1), 1979. It begins, as there, with the shares of votes, and takes errors for independent given what
    happened, and abstentions as uninformative.

    Parameters
    ----------
    votes : int8 array of shape (n, m)
        See `matrix`.
    prior : float
        Votes of each kind that are added to a source's own, so that one that never erred is not taken for
        infallible.
    """
    patterns, of_event, weights = _patterns(votes)
    cells = np.concatenate([patterns == value for value in (NO_CRASH, CRASH)], axis=1).astype(np.float64)
    sources = np.tile(np.arange(votes.shape[1]), 2)
    probability, shares, table, likelihood = _maximise(cells, sources, weights, majority(patterns), prior)
    no, yes = np.split(table, 2)
    return Estimate(float(shares[CRASH]), yes[:, CRASH], no[:, NO_CRASH], probability[of_event], likelihood)


def is_identifiable(votes: Votes) -> bool:
    """Say whether enough sources vote both yes and no to tell their errors apart."""
    return sum({NO_CRASH, CRASH} <= set(column.tolist()) for column in votes.T) >= MIN_SOURCES


def dependence(votes: Votes) -> list[Dependence]:
    """Find the sources whose errors are not independent given what happened, the clearest first.

    Every two in turn are taken together, as one source that gives both answers. If they err independently, that gains
    little: twice the log-likelihood is then chi-squared. The two that gain most stay together, and the rest is tried
    again: what one dependence does to the whole model must not be laid at the door of others.

    Source: the likelihood ratio of nested latent class models; on dependence between tests, Qu, Tan and Kutner, Random
    effects models in latent class analysis, Biometrics 52(3), 1996.

    Parameters
    ----------
    votes : int8 array of shape (n, m)
        See `matrix`. Of three sources nothing can be said: any two could be taken together.
    """
    patterns, _, weights = _patterns(votes)
    start, found = majority(patterns), []
    groups: list[Group] = [(source,) for source in range(votes.shape[1])]
    error = ERROR_OF_TESTS / max(1, comb(len(groups), 2))
    while len(groups) > MIN_SOURCES:
        gains = []
        for one, other in combinations(groups, 2):
            rest = [group for group in groups if group not in (one, other)]
            apart, freedom = _answers(patterns, rest, (one, other), is_joint=False)
            joint, _ = _answers(patterns, rest, (one, other), is_joint=True)
            *_, before = _maximise(*apart, weights, start)
            probability, *_, after = _maximise(*joint, weights, start)
            ratio = 2 * (after - before)
            gains.append((ratio - float(chdtri(max(freedom, 1), error)), ratio, one, other, probability))
        gain, ratio, one, other, probability = max(gains, key=lambda item: item[0])
        if gain <= 0:
            break
        pairs = {(a, b): _correlation(patterns, weights, probability, a, b) for a in one for b in other}
        pair = max(pairs, key=lambda pair: abs(pairs[pair]))
        found.append(Dependence((min(pair), max(pair)), pairs[pair], ratio))
        groups = sorted([*(group for group in groups if group not in (one, other)), (*one, *other)])
    return found


def _patterns(votes: Votes) -> tuple[Votes, Ints, Floats]:
    """Return the distinct rows, which of them each event has, and how many events have each."""
    rows = pl.DataFrame(votes)
    patterns = rows.unique().sort(rows.columns)
    numbered = rows.join(patterns.with_row_index("number"), on=rows.columns, how="left", maintain_order="left")
    of_event = numbered["number"].to_numpy().astype(np.intp)  # ten times as fast as numpy.unique by rows
    return np.ascontiguousarray(patterns.to_numpy()), of_event, np.bincount(of_event).astype(np.float64)


def _answers(
    patterns: Votes, rest: list[Group], two: tuple[Group, Group], is_joint: bool
) -> tuple[tuple[Floats, Ints], int]:
    """Lay the answers of groups of sources out as columns of 0 and 1, those of `two` as of one group if they are joint.

    A group's answers depend on which of its members vote; so do those of `two` on which members of both vote: then
    being joint or not is all that differs.

    Returns
    -------
    cells : float array of shape (p, k), int array of shape (k,)
        Which pattern gives which answer, and whose answer it is.
    freedom : int
        How many more parameters the joint answers of `two` have.
    """
    one, other = two
    columns: list[NDArray[np.bool_]] = []
    owners: list[int] = []
    freedom = 0

    def add(group: Group, rows: NDArray[np.bool_]) -> int:
        answers, given = np.unique(patterns[:, group][rows], axis=0, return_inverse=True)
        owner = owners[-1] + 1 if owners else 0
        for number in range(len(answers)):
            column = np.zeros(len(patterns), dtype=bool)
            column[rows] = given.ravel() == number
            columns.append(column)
            owners.append(owner)
        return len(answers)

    for group in rest:
        for rows in _by_voters(patterns, group):
            add(group, rows)
    for rows in _by_voters(patterns, (*one, *other)):
        if is_joint:
            add((*one, *other), rows)
        else:
            freedom += 2 * (add(one, rows) - 1) * (add(other, rows) - 1)  # one for each class
    return (np.stack(columns, axis=1).astype(np.float64), np.array(owners)), freedom


def _by_voters(patterns: Votes, group: Group) -> list[NDArray[np.bool_]]:
    """Return the patterns in which the same members of a group vote, for every such choice of at least one member."""
    votes = patterns[:, group] != ABSTAINS
    kinds = [kind for kind in np.unique(votes, axis=0) if kind.any()]
    return [(votes == kind).all(axis=1) for kind in kinds]


def _maximise(
    cells: Floats, sources: Ints, weights: Floats, start: Floats, prior: float = 0.0
) -> tuple[Floats, Floats, Floats, float]:
    """Run expectation and maximisation in turn until the likelihood stands still.

    Parameters
    ----------
    cells : float array of shape (p, k)
        1 if a pattern holds an answer.
    sources : int array of shape (k,)
        Whose answer each column is.
    weights : float array of shape (p,)
        How many events have each pattern.
    start : float array of shape (p,)
        The first guess of each pattern's probability.
    prior : float
        See `dawid_skene`.

    Returns
    -------
    probability : float array of shape (p,)
    shares : float array of shape (2,)
        Of the classes.
    table : float array of shape (k, 2)
        The probability of each answer given the class, if its source answers.
    log_likelihood : float
    """
    member = (sources[:, None] == np.arange(sources.max() + 1)).astype(np.float64)
    probability, before = start, -np.inf
    for _ in range(MAX_ROUNDS):
        of_class = np.stack([1 - probability, probability], axis=1) * weights[:, None]
        shares = of_class.sum(axis=0) / weights.sum()
        counts = cells.T @ of_class + prior
        table = np.maximum(counts / np.maximum(member @ (member.T @ counts), LEAST), LEAST)
        logs = np.log(np.maximum(shares, LEAST)) + cells @ np.log(table)
        highest = logs.max(axis=1)
        likely = np.exp(logs - highest[:, None])
        total = likely.sum(axis=1)
        probability = likely[:, CRASH] / total
        likelihood = float(weights @ (highest + np.log(total)))
        if abs(likelihood - before) <= TOLERANCE * abs(likelihood):
            break
        before = likelihood
    return probability, shares, table, likelihood


def _correlation(patterns: Votes, weights: Floats, probability: Floats, first: int, second: int) -> float:
    """Return the correlation of two sources' errors given the class, over the events on which both vote."""
    both = (patterns[:, [first, second]] != ABSTAINS).all(axis=1)
    yes = patterns[both][:, [first, second]].astype(np.float64)
    moments = np.zeros((2, 2))
    for of_class in (probability[both], 1 - probability[both]):
        share = weights[both] * of_class
        centred = yes - (share @ yes) / max(share.sum(), LEAST)
        moments += (centred * share[:, None]).T @ centred
    return float(moments[0, 1] / max(np.sqrt(moments[0, 0] * moments[1, 1]), LEAST))
