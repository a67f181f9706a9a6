"""What a terminal showed: a model of a screen, and the lines that passed over it.

It is a subset of what terminals do, and exactly the one that the sanitiser lets pass (`recording.sanitise`): so the
model needs no table of refusals of its own, and what is found, exported and drawn again is what a player shows.
"""

from teleport.recording.screen.lines import Shown, shown_lines
from teleport.recording.screen.model import MAX_COLUMNS, MAX_ROWS, Screen
from teleport.recording.screen.paint import Painter, runs
from teleport.recording.screen.row import Row, colours, flags

__all__ = ["MAX_COLUMNS", "MAX_ROWS", "Painter", "Row", "Screen", "Shown", "colours", "flags", "runs", "shown_lines"]
