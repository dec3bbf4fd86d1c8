"""The one walk over what is made of what: values of a program, places in a loop nest, nodes of a derivative.

``operands`` says what a node is made of; an empty answer stops the walk there. What is ``known`` is neither met nor
entered. Each node is met once. Roots and operands are taken from the first to the last: whoever wants another order
gives them in that order. Nothing here is recursive, because programs are deep.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


def postorder(
    roots: Iterable[Node], operands: Callable[[Node], Iterable[Node]], known: Iterable[Node] = ()
) -> list[Node]:
    """All that ``roots`` are made of, operands first: the order in which it can be computed."""
    seen, found = set(known), []
    path: list[Node] = []  # from a root down to where the walk is
    rests = [iter(roots)]  # the roots that are left, and of each node of the path the operands that are left
    while rests:
        for node in rests[-1]:
            if node not in seen:
                seen.add(node)
                path.append(node)
                rests.append(iter(operands(node)))
                break
        else:
            rests.pop()
            if path:
                found.append(path.pop())
    return found


def preorder(
    roots: Iterable[Node], operands: Callable[[Node], Sequence[Node]], known: Iterable[Node] = ()
) -> Iterator[Node]:
    """All that ``roots`` are made of, each node before its operands; no further than the caller reads."""
    seen, waiting = set(known), list(roots)[::-1]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting.extend(reversed(operands(node)))
