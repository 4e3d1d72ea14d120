"""Federations that pay for contributions (section VI)."""

from __future__ import annotations

from fedfm.cards.registry import recipe
from fedfm.core.federation import Federation, replace
from fedfm.data.fashion_mnist import FashionMnist
from fedfm.incentives.auction.proportional_share import ProportionalShare
from fedfm.incentives.contribution.shapley_permutation import ShapleyPermutation
from fedfm.incentives.reward.budget_split import BudgetSplit
from fedfm.recipes.vision import fedavg_vision


@recipe(
    "shapley-rewards",
    section="VI.D",
    survey=(130, 168),
    atlas=("shapley-permutation",),
    paper="Ghorbani and Zou, Data Shapley: Equitable Valuation of Data for Machine Learning, 2019",
)
def shapley_rewards() -> Federation:
    """Each round's budget is split by the parties' Shapley values on the round's coalition game."""
    return replace(
        fedavg_vision(),
        data=FashionMnist(server_rows=200),
        value=ShapleyPermutation(permutations=8),
        reward=BudgetSplit(budget=10.0),
        rounds=10,
    )


@recipe("budget-auction", section="VI.C", survey=(148,), paper="Singer, Budget Feasible Mechanisms, 2010")
def budget_auction() -> Federation:
    """A truthful auction buys the cohort within a budget; who does not deliver is not paid."""
    auction = ProportionalShare(budget=10.0)
    return replace(fedavg_vision(), select=auction)
