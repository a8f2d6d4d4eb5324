"""A live table of the stages in training, below the printed lines; only on a terminal. Rich is imported late."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

COLUMNS = ("stage", "step", "loss", "samples/s", "ETA")


class LiveStages:
    """The table. It appears with the first row, and disappears when no stage trains.

    Args:
        console: where it is drawn; None: the standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich import get_console

        self.console = console or get_console()
        self.rows: dict[str, tuple[str, ...]] = {}  # stage -> cells
        self.live: Live | None = None

    def show(self, stage: str, *cells: str, outlook: str = "") -> bool:
        """Set the row of a stage; returns False without a terminal, where nothing is drawn.

        Args:
            stage: in training. cells: texts of the other COLUMNS. outlook: line below the table.
        """
        if not self.console.is_terminal:
            return False
        from rich.live import Live
        from rich.table import Table
        from rich.text import Text

        self.rows[stage] = (stage, *cells)
        if self.live is None:
            # Rich prints other lines above the table, because it takes the place of sys.stdout until ``stop``.
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        table = Table(*COLUMNS, caption=Text(outlook), caption_justify="left", width=min(80, self.console.width))
        for row in self.rows.values():
            table.add_row(*(Text(cell) for cell in row))
        self.live.update(table, refresh=True)
        return True

    def ended(self, stage: str) -> None:
        """Remove the row of a stage."""
        self.rows.pop(stage, None)
        if not self.rows:
            self.stop()

    def stop(self) -> None:
        """Remove the table, and give the screen back (the cursor, ``sys.stdout``)."""
        live, self.live = self.live, None
        self.rows.clear()
        if live is not None:
            live.stop()
