"""Scenarios that several tests look through: each is drawn once a process."""

from __future__ import annotations

import functools

from simulation.drawing import draw

drawn = functools.cache(draw)
