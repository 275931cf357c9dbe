"""Samples in Prometheus's text format, version 0.0.4."""

from __future__ import annotations

import hashlib
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from raykv.metrics.registry import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

    from raykv.metrics.samples import Sample

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
MAX_LABEL_CHARS = 200
_DIGEST_BYTES = 12


def exposition(found: Iterable[Sample]) -> str:
    """Return samples as text: those of one metric stand together, below its help and type."""
    lines: list[str] = []
    for name, group in groupby(found, key=attrgetter("name")):
        metric = BY_NAME[name]
        lines.append(f"# HELP {metric.full_name} {metric.help.translate(_ESCAPES)}")
        lines.append(f"# TYPE {metric.full_name} {metric.kind}")
        for sample in group:
            labels = ",".join(f'{label}="{cut(value).translate(_ESCAPES)}"' for label, value in sample.labels.items())
            lines.append(f"{metric.full_name}{sample.suffix}{{{labels}}} {sample.value:.17g}")
    return "\n".join([*lines, ""])


def cut(value: str) -> str:
    """Return a value of at most ``MAX_LABEL_CHARS``: keys come from anyone who can write.

    Values that differ stay different: a long one ends with a digest of the whole. What is that long is never kept as it is:
    no key can be written that reads as the cut form of another.
    """
    if len(value) < MAX_LABEL_CHARS:
        return value
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[: 2 * _DIGEST_BYTES]
    return f"{value[: MAX_LABEL_CHARS - len(digest) - 1]}~{digest}"
