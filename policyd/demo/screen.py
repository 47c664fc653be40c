"""Where the story is told: with colours and moving numbers on a terminal, as plain lines anywhere else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console, RenderableType
from rich.highlighter import JSONHighlighter
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from policyd.core.money import format_usd
from policyd.demo.json_text import json_lines

INDENT: Final = 3
BAR_WIDTH: Final = 16
PLAIN_WIDTH: Final = 100
FRAMES_PER_SECOND: Final = 15
USD_DECIMALS: Final = 7
"""What shows the prices of today's models exactly."""

JSON_STYLES: Final = {
    "json.brace": "dim",
    "json.key": "dim",
    "json.null": "none",
    "json.number": "cyan",
    "json.str": "none",
}
"""Calmer than rich's own: the numbers are what matters here."""

STATUS_STYLES: Final = {200: "green", 402: "red", 429: "yellow"}


def usd(nanos: int) -> str:
    """Dollars for a sentence: `$0.05`."""
    return f"${format_usd(nanos)}"


def usd_aligned(nanos: int) -> str:
    """Dollars for a column, with so many decimals that the points stand below each other: `$0.0500000`."""
    dollars, _, decimals = format_usd(nanos).partition(".")
    return f"${dollars}.{decimals.ljust(USD_DECIMALS, '0')}"


def status_text(status: int) -> Text:
    return Text(str(status), style=STATUS_STYLES.get(status, ""))


def columns(*headers: str) -> Table:
    """A table without lines; a header that begins with `>` is a column of numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for header in headers:
        table.add_column(header.removeprefix(">"), justify="right" if header.startswith(">") else "left", no_wrap=True)
    return table


class Screen:
    def __init__(self) -> None:
        self._console = Console(highlight=False, theme=Theme(JSON_STYLES))
        if not self._console.is_terminal:
            self._console.width = PLAIN_WIDTH
        self.claims = 0
        """How many claims have been shown to hold."""
        self._among_claims = False
        """Whether the last thing shown was one."""

    def title(self, title: str, text: str = "") -> None:
        self._print("")
        self._print(Text(title, style="bold"))
        if text:
            self.say(text)

    def scene(self, number: int, title: str, sentence: str) -> None:
        self._print("")
        self._print(Text.assemble((f"{number:<{INDENT}}", "cyan"), (title, "bold")))
        self.say(sentence)
        self._print("")

    def say(self, sentence: str) -> None:
        self.show(Text(sentence, style="dim"))

    def introduce(self, sentence: str) -> None:
        """Says, after a gap, what comes next."""
        self._print("")
        self.say(sentence)

    def show(self, what: RenderableType) -> None:
        self._print(_indented(what))

    def show_command(self, comment: str, command: str) -> None:
        """Something to copy as it stands: not indented, and never wrapped."""
        self.introduce(comment)
        self._console.out(command, highlight=False)

    def show_json(self, document: bytes) -> None:
        """A JSON document. A line that is too long goes on below its own beginning."""
        highlight = JSONHighlighter()
        for indent, line in json_lines(document):
            self._print(_indented(highlight(Text(line)), by=INDENT + indent))

    @contextmanager
    def changing(self) -> Iterator[Callable[[RenderableType], None]]:
        """Something that changes in its place while the block runs; on anything but a terminal, its last state."""
        if not self._console.is_terminal:
            yield from self._last_state()
            return
        self._among_claims = False
        with Live(console=self._console, refresh_per_second=FRAMES_PER_SECOND) as live:
            yield lambda what: live.update(_indented(what))

    def _last_state(self) -> Iterator[Callable[[RenderableType], None]]:
        last: RenderableType = ""

        def draw(what: RenderableType) -> None:
            nonlocal last
            last = what

        yield draw
        self.show(last)

    def bar(self, part: int, whole: int) -> RenderableType:
        """How much of `whole` there is: a bar on a terminal, else a percentage."""
        if not self._console.is_terminal:
            return f"{100 * part // whole}%"
        return ProgressBar(completed=part, total=whole, width=BAR_WIDTH, complete_style="cyan", finished_style="cyan")

    def dots(self, statuses: list[int | None]) -> Text:
        """A dot for every request, in the colour of its outcome: full if it passed, pale while it is open."""
        text = Text()
        for status in statuses:
            dot = self._either("●", "#") if status == 200 else self._either("○", ".")
            text.append(dot, style="bright_black" if status is None else STATUS_STYLES[status])
        return text

    def holds(self, claim: str) -> None:
        """A claim that was checked."""
        if not self._among_claims:
            self._print("")
        self.show(Text.assemble((self._either("✓", "+"), "green"), " ", claim))
        self._among_claims = True
        self.claims += 1

    def _print(self, what: RenderableType) -> None:
        self._among_claims = False
        if self._console.is_terminal:
            self._console.print(what)
            return
        with self._console.capture() as captured:
            self._console.print(what)
        for line in captured.get().splitlines():
            self._console.out(line.rstrip(), highlight=False)

    def _either(self, glyph: str, ascii_glyph: str) -> str:
        return ascii_glyph if self._console.options.ascii_only else glyph


def _indented(what: RenderableType, *, by: int = INDENT) -> Padding:
    return Padding(what, (0, 0, 0, by), expand=False)
