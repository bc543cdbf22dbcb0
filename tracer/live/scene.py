"""What a picture is made from, worked out once for all its panels."""

from dataclasses import dataclass
from functools import cached_property

from tracer.live.arrange import Stat
from tracer.live.model import Model, Moment, areas_of
from tracer.live.pieces import Piece
from tracer.live.theme import Charset
from tracer.live.view import View
from tracer.model.rows import RowRecords


@dataclass
class Scene:
    """What a picture is made from, worked out once for all panels."""

    model: Model
    view: View
    moment: Moment
    now_ns: int  # that of the picture, from which ages are computed
    pieces: list[Piece]  # in the order they are shown
    charset: Charset
    output: list[str]  # the command's last lines, printable
    command: bool  # it takes keys

    @cached_property
    def stats(self) -> list[Stat]:
        """Counts of the areas, in that order."""
        return [piece.stat for piece in self.pieces]

    @cached_property
    def several(self) -> bool:
        """Whether regions of more than one process are shown."""
        return len({stat.area.space for stat in self.stats}) > 1

    def wanted(self, rows: RowRecords) -> RowRecords:
        """The faults that pass the view's filters."""
        view = self.view
        if view.kind is not None:
            rows = rows[rows["kind"] == view.kind]
        if view.only is not None or view.find:
            areas = [stat.area for stat in self.stats]
            rows = rows[areas_of(rows["space"], rows["address"], areas) >= 0]
        return rows
