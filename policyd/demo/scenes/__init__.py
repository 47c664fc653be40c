"""The scenes of the story, in order. Each has a project of its own, so that none disturbs another."""

from typing import Final

from policyd.demo.scenes.books import BOOKS
from policyd.demo.scenes.crowd import CROWD
from policyd.demo.scenes.cut import CUT
from policyd.demo.scenes.drain import DRAIN
from policyd.demo.scenes.rate import RATE
from policyd.demo.scenes.refused import REFUSED
from policyd.demo.scenes.service import SERVICE
from policyd.demo.scenes.stream import STREAM
from policyd.demo.stage import Scene

SCENES: Final[tuple[Scene, ...]] = (DRAIN, STREAM, REFUSED, RATE, CROWD, CUT, SERVICE, BOOKS)
