"""What every mechanism of differential privacy promises: an epsilon or a noise, for whom, until when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from fedfm.cards.registry import knob
from fedfm.core.context import Ctx
from fedfm.core.errors import FedfmError
from fedfm.core.protocols import Bound, Wire
from fedfm.ledger.events import Event
from fedfm.vectors.layout import Layout

CHANGES = ("zero-out", "replace-one", "add-or-remove")
BOTH = "epsilon and noise_multiplier are two ways to say one thing: set one of them to null"


@dataclass(frozen=True)
class Privacy(Event):
    """One release of noised values: what an accountant needs, and whether its noise was real."""

    release: Mapping[str, Any]
    noise: str
    simulated: bool
    shows = (
        *("mechanism", "event", "relation", "unit", "observer", "delta", "noise_multiplier", "clip_norm"),
        *("noise", "simulated"),
    )

    def facts(self) -> dict[str, Any]:
        """The release's own words stand beside the others."""
        return {**self.release, "noise": self.noise, "simulated": self.simulated}


@dataclass(frozen=True)
class Promise(Wire):
    """A guarantee in knobs: `epsilon` (turned into noise for the planned rounds and draws) or `noise_multiplier`.

    With neither, noise_multiplier is `usual`. With noise 0, or `no_guarantee`, nothing is promised: it only clips and
    perturbs, no event is noted, and no rule of a protection holds.
    """

    clip_norm: float = knob(1.0, "largest L2 norm C of one party's update", low=1e-30)
    noise_multiplier: float | None = knob(
        None,
        "z: standard deviation of the noise, in units of C; the method's usual one, unless epsilon is given",
        low=0.0,
        alternative="noise",
    )
    _: KW_ONLY
    epsilon: float | None = knob(
        None,
        "privacy budget of the whole run; sets the noise for its rounds and draws, instead of noise_multiplier",
        above=0.0,
        alternative="noise",
    )
    delta: float = knob(
        1e-5, "probability that epsilon does not hold; well below 1 / parties", above=0.0, below=1.0
    )
    budget: float | None = knob(
        None, "stop before a round that would spend more than this epsilon", above=0.0
    )
    real_noise: bool = knob(
        False, "noise from the operating system in simulation too; such a run cannot be repeated"
    )
    no_guarantee: bool = knob(False, "claim none: needed without noise, or beyond epsilon 20")

    relation: str = knob("zero-out", "what the guarantee hides of a party", choices=CHANGES)

    rests = {**Wire.rests, "event": ("encode", "decode_sum", "add", "std", "announce")}
    perturbs: ClassVar[bool] = True
    usual: ClassVar[float] = 1.0  # the noise multiplier of who names neither

    def gives(self, layout: Layout) -> Layout:
        return layout  # noise on every coordinate, where it was

    def __post_init__(self) -> None:
        if self.epsilon is not None and self.noise_multiplier is not None:
            raise ValueError(BOTH)
        if self.epsilon is not None and not self.epsilon > 0:
            raise ValueError(
                f"epsilon={self.epsilon:g}: no noise reaches it; a guarantee needs epsilon above 0"
            )
        if not 0.0 < self.delta < 1.0:
            raise ValueError(f"delta={self.delta:g}: a guarantee needs 0 < delta < 1, well below 1 / parties")
        if self.epsilon is not None and self.no_guarantee:
            raise ValueError(
                "epsilon is a guarantee, and no_guarantee claims none: set noise_multiplier instead of epsilon, or "
                "no_guarantee=false"
            )
        if self.budget is not None and self.no_guarantee:
            raise ValueError("a budget needs a guarantee to count: set budget=null, or no_guarantee=false")
        if self.epsilon is None and self.noise_multiplier is None:
            object.__setattr__(self, "noise_multiplier", self.usual)

    @property
    def promises(self) -> bool:
        """Is a guarantee claimed?"""
        return not self.no_guarantee

    def feasible(self, parties: int, bound: Bound) -> str:
        if not bound.layout.mixed or self.noise_multiplier == 0:
            return ""
        still = ", ".join(e.name for e in bound.layout.entries if not e.trainable)
        return (
            f"the model has buffers ({still[:120]}) that are a function of a party's rows and travel beside its update, "
            "where no noise is added; a norm that keeps no statistics in place of each batch norm, such as "
            "torch.nn.GroupNorm(1, CHANNELS) or LayerNorm"
        )

    @property
    def fresh(self) -> bool:  # type: ignore[override]
        return self.real_noise

    @property
    def off(self) -> str:
        return (
            "its noise is switched off, it only clips" if self.promises and self.noise_multiplier == 0 else ""
        )

    @property
    def accountant(self) -> Any:
        from fedfm.trust.privacy import accountant

        return accountant

    @property
    def std(self) -> float:
        """Standard deviation of the noise; raises FedfmError while the epsilon was not turned into noise."""
        return self.noise * self.clip_norm

    @property
    def noise(self) -> float:
        if self.noise_multiplier is None:
            raise FedfmError(
                f"epsilon {self.epsilon} was not turned into noise: the number of rounds and parties decides it "
                "(core.spending.planned)"
            )
        return self.noise_multiplier

    def event(self) -> Mapping[str, Any]:
        """One release as dp-accounting's event: Gaussian, the noise in units of the clip norm."""
        return {"GaussianDpEvent": {"noise_multiplier": self.noise}}

    def release(self) -> Mapping[str, Any]:
        if not self.promises or not self.noise:
            return {}
        return {
            "mechanism": getattr(self, "method_name", type(self).__name__),
            "event": self.event(),
            "relation": self.relation,
            "unit": "party",
            "observer": self.against,
            "delta": self.delta,
            "noise_multiplier": self.noise,
            "clip_norm": self.clip_norm,
        }

    def announce(self, ctx: Ctx) -> None:
        """Note one release in the ledger."""
        if facts := self.release():
            seeded = ctx.simulated and not self.real_noise
            ctx.note(Privacy(facts, "seeded" if seeded else "system", ctx.simulated))
