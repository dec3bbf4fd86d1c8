"""Few cases in place of all combinations, chosen so that each choice, and each pair of choices, is met; always alike.

Most faults need one choice, or two that meet, so the short suite runs covering combinations. The full suite takes a
few times as many (`tests/conftest.py`), and all of them with TREADLE_LONG=1.
"""

import heapq
import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any


def pairwise(**choices: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Cases, one value of each choice, such that every two values of different choices meet in one of them."""
    values = list(choices.values())
    places = range(len(values))
    open_pairs = {
        ((i, a), (j, b))
        for i, j in itertools.combinations(places, 2)
        for a, b in itertools.product(range(len(values[i])), range(len(values[j])))
    }

    def gain(case: dict[int, int], place: int, value: int) -> int:
        return sum(tuple(sorted([(place, value), other])) in open_pairs for other in case.items())

    cases = []
    while open_pairs:
        case = dict(min(open_pairs))
        for place in places:
            if place not in case:  # of values that gain the same, another one each time
                first = zlib.crc32(f"{place} {len(cases)}".encode())
                turns = [(first + k) % len(values[place]) for k in range(len(values[place]))]
                case[place] = max(turns, key=lambda value, place=place: gain(case, place, value))
        open_pairs -= set(itertools.combinations(sorted(case.items()), 2))
        cases.append(tuple(values[place][case[place]] for place in places))
    return cases


def share(cases: Sequence[Mapping[str, int]], name: str, most: int | None = None) -> set[int]:
    """Which of these cases to run: one by one that which shows the most new values, then the most new pairs of them.

    Args:
        cases: each says of each parameter which of its values it has.
        name: of what is tested. Tests of different names begin at different cases.
        most: how many; as many as show each value once unless given.
    """
    N = len(cases)
    step = next(k for k in range(round(0.618 * N) or 1, 2 * N + 2) if math.gcd(k, N) == 1)
    order = [(zlib.crc32(name.encode()) + k * step) % N for k in range(N)]
    values = [set(case.items()) for case in cases]
    pairs = [set(itertools.combinations(sorted(case.items()), 2)) for case in cases]
    seen_values, seen_pairs, chosen = set(), set(), set()
    # The more has been seen, the less a case shows that is new: a case that came first by an old count and does so
    # still comes before all others.
    queue = [((-len(values[k]), -len(pairs[k])), place, k) for place, k in enumerate(order)]
    heapq.heapify(queue)
    while queue and len(chosen) < (N if most is None else most):
        before, place, k = heapq.heappop(queue)
        new = (-len(values[k] - seen_values), -len(pairs[k] - seen_pairs))
        if new != before:
            heapq.heappush(queue, (new, place, k))
            continue
        if most is None and chosen and not new[0]:
            break
        chosen.add(k)
        seen_values |= values[k]
        seen_pairs |= pairs[k]
    return chosen
