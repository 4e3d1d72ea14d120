"""The slots: what a method may be. Pure functions, state in, state out; facts about a method are declared.

Every base class here is the identity of its slot, so a method overrides only what it changes. A fact stands in its
base class with the value that promises least, and `check` refuses what meets it; no rule asks whether an attribute
is there. States are nested dicts of tensors, numbers and strings (they are saved, never pickled); an entry whose
key starts with `_` lives for one session only (secrets).
"""

from fedfm.core.protocols.cohort import Load, Outcome, Pace, Plan, Selector
from fedfm.core.protocols.folding import Aggregate, Aggregator, Lift
from fedfm.core.protocols.scoring import Audit, Evaluator, Reward, Valuer
from fedfm.core.protocols.scrutiny import Adversary, Detector
from fedfm.core.protocols.slot import Barrier, Replies, Say, Scores, Slot, State
from fedfm.core.protocols.training import Bound, Client, House, Loss, Server, Task
from fedfm.core.protocols.wires import Wire

__all__ = [
    "Adversary",
    "Aggregate",
    "Aggregator",
    "Audit",
    "Barrier",
    "Bound",
    "Client",
    "Detector",
    "Evaluator",
    "House",
    "Lift",
    "Load",
    "Loss",
    "Outcome",
    "Pace",
    "Plan",
    "Replies",
    "Reward",
    "Say",
    "Scores",
    "Selector",
    "Server",
    "Slot",
    "State",
    "Task",
    "Valuer",
    "Wire",
]
