"""Where the extras of a slice go: which task's file, under which name, from which byte on."""

from collections.abc import Iterator, Sequence

from eutectic.checkpoint.source import Buffer
from eutectic.checkpoint.tasks import extra_name, place_name
from eutectic.plan.steps import Merged


def places(site: Merged, has_base: bool, start: int, made: Sequence[Buffer]) -> Iterator[tuple[str, int, Buffer]]:
    """Yields each model's part of the extras of the slice that starts at element `start`.

    Args:
        site: what they were made of.
        has_base: the first of the plan's inputs is the base.
        start: the slice's first element.
        made: a buffer for each extra of the site, model after model.

    Yields:
        What the layout calls the tensor, its first byte there, and the bytes.
    """
    n = len(site.models)
    for extra, buffer in zip(site.extras, made, strict=True):
        size = len(buffer) // n
        name = extra_name(site.spec.name, site.steps[-1].method.name, extra.name)
        for row, feed in enumerate(site.models):
            if size:
                part = buffer[row * size : (row + 1) * size]
                yield place_name(feed.source - has_base, name), extra.first_byte(start), part
