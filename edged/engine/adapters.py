"""Which adapter each slot of the cache has: what the adapted branches of a graph are given.

A run reads the adapters of adjacent slots as one array for each product, so each slot has a copy of
its own: at most one that an answer of some tokens hides.

Rule: a slot without an adapter holds zeros, which add nothing to any product.
"""

import numpy as np
from numpy.typing import NDArray

from edged.engine.signature import DOWN, UP
from edged.specialists.adapter import Adapter, AdapterShape


class AdapterSlots:
    """The adapters of ``num_slots`` slots of a graph whose products have this shape."""

    def __init__(self, shape: AdapterShape, num_slots: int) -> None:
        self._shape = shape
        self._held: list[Adapter | None] = [None] * num_slots
        self._down: dict[str, NDArray[np.int8]] = {}
        self._up: dict[str, NDArray[np.float32]] = {}

    def is_adapted(self, slot: int) -> bool:
        """Return whether a slot has an adapter."""
        return self._held[slot] is not None

    def give(self, slot: int, adapter: Adapter | None) -> None:
        """Give a slot an adapter that has the graph's shape; takes 1 ms where it had another."""
        before = self._held[slot]
        if adapter is before or (adapter and before and adapter.key == before.key):
            return
        if not self._down:
            self._allocate()
        for product in self._shape:
            part = None if adapter is None else adapter.parts.get(product)
            if part is not None:
                self._down[product][slot] = part.down
                part.write_up(self._up[product][slot, 0])
            elif before is not None and product in before.parts:
                self._down[product][slot] = 0
                self._up[product][slot] = 0.0
        self._held[slot] = adapter

    def inputs(self, first: int, width: int) -> dict[str, NDArray[np.generic]]:
        """Return the graph's inputs for the slots from ``first`` on: views that ``give`` writes."""
        if not self._down:
            self._allocate()
        slots = slice(first, first + width)
        return {
            **{f"{DOWN}{product}": array[slots] for product, array in self._down.items()},
            **{f"{UP}{product}": array[slots] for product, array in self._up.items()},
        }

    def _allocate(self) -> None:
        # Zeros cost no memory until something else is written.
        num = len(self._held)
        for product, (inputs, inners, blocks, rank, width) in self._shape.items():
            self._down[product] = np.zeros((num, inputs, inners * rank), np.int8)
            self._up[product] = np.zeros((num, 1, blocks, rank, width), np.float32)
