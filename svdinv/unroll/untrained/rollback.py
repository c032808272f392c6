"""Return to earlier weights when a fit diverges."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

# The fit has diverged if the residual is larger than this multiple of its median.
_DROP = 4.0
_EXPLOSION = 1e4  # the same of the first residual, until there is a median
_NOTHING = 1e-3  # of the first or usual residual, below which it cannot diverge
_SLOWER = 0.5  # factor of the learning rate after each divergence
_WINDOW = 50
_REMEMBER = 50  # iterations between two sets of weights that can be restored
_MOST = 20
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam


class Rollback:
    """Recognises a fit that diverges, and returns it to its earlier weights.

    `earlier` holds three copies of the models, which the checkpoint of the fit
    contains: the weights to return to, and Adam's first and second moments for these.
    `usual` is the size of a bad fidelity. `iterations` are those at which the fit
    diverged.
    """

    def __init__(
        self,
        models: nn.Module,
        optimiser: torch.optim.Adam,
        earlier: nn.ModuleList,
        usual: float,
    ) -> None:
        self._models, self._optimiser, self._earlier = models, optimiser, earlier
        self._usual = usual
        self.iterations: list[int] = []
        self._first = math.nan
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._updates = 0  # steps of the optimiser, less than iterations after a return
        self._remember()

    @property
    def factor(self) -> float:
        """Factor of the learning rate."""
        return _SLOWER ** len(self.iterations)

    def lost(self, iteration: int) -> bool:
        """Whether the fit has diverged too often to continue."""
        return self.iterations[-1:] == [iteration] and len(self.iterations) > _MOST

    def diverged(self, data: float, iteration: int) -> bool:
        """Return whether the fit has diverged, and if so restore earlier weights.

        `data` is the data fidelity; iterations are counted from 1.
        """
        if iteration == 1:
            self._first = data
        if len(self._recent) == _WINDOW:
            # A residual that is nearly 0 may increase by such a factor.
            typical = sorted(self._recent)[_WINDOW // 2]
            most = max(_DROP * typical, _NOTHING * self._first)
        else:  # from a good start it may rise
            most = _EXPLOSION * max(self._first, _NOTHING * self._usual)
        if math.isfinite(data) and not data > most:
            self._recent.append(data)
            return False
        self.iterations.append(iteration)
        if not self.lost(iteration):
            self._return()
        return True

    def updated(self, iteration: int) -> None:
        """Count a step of the optimiser; remember the weights of every 50th."""
        self._updates += 1
        if iteration % _REMEMBER == 0:
            self._remember()

    def saved(self) -> dict[str, Any]:
        """Return the numbers that a checkpoint keeps."""
        return {
            "rollbacks": list(self.iterations),
            "recent": list(self._recent),
            "updates": [self._updates, self._earlier_updates],
            "first": self._first,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Restore what `saved` returned, after models and optimiser were restored."""
        self.iterations = [int(i) for i in saved["rollbacks"]]
        self._recent.extend(map(float, saved["recent"]))
        self._updates, self._earlier_updates = map(int, saved["updates"])
        self._first = float(saved["first"])
        for moments in self._optimiser.state.values():
            moments["step"].fill_(self._updates)

    @torch.no_grad()
    def _remember(self) -> None:
        weights, *moments = self._earlier
        weights.load_state_dict(self._models.state_dict())
        for kind, earlier in zip(_MOMENTS, moments, strict=True):
            pairs = zip(self._models.parameters(), earlier.parameters(), strict=True)
            for parameter, moment in pairs:
                state = self._optimiser.state.get(parameter, {})
                moment.copy_(state.get(kind, torch.zeros_like(moment)))
        self._earlier_updates = self._updates

    @torch.no_grad()
    def _return(self) -> None:
        weights, *moments = self._earlier
        self._models.load_state_dict(weights.state_dict())
        self._updates = self._earlier_updates
        self._optimiser.state.clear()
        known = (earlier.parameters() for earlier in moments)
        for parameter, *values in zip(self._models.parameters(), *known, strict=True):
            if parameter.requires_grad and self._updates:
                state = {"step": torch.tensor(float(self._updates))}
                for kind, value in zip(_MOMENTS, values, strict=True):
                    state[kind] = value.detach().clone()
                self._optimiser.state[parameter] = state
