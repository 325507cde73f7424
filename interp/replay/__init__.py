"""Counterfactuals without computing again what cannot change.

from interp.replay import Change, Replay
"""

from interp.replay.changes import Change
from interp.replay.running import PATHS, Replay

__all__ = ["PATHS", "Change", "Replay"]
