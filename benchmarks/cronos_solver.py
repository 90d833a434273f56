"""CRONOS (Feng, Frangella, Pilanci, NeurIPS 2024), for those who have it: it is not on PyPI.

A clone of github.com/pilancilab/CRONOS on PYTHONPATH, and jax. Its own gated model does not run (its matrix-vector
products lack an index), so its step, preconditioner and conjugate gradients are given a model written here.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from solver_cases import Arrays
from timed_trials import ReachedError, Solve, Trial


@dataclass(frozen=True)
class GatedModel:
    """What CRONOS asks of a model, for the program without cone constraints: G = 0, and z = 0 in F (w - z).

    Attributes:
        X, y: patches (n, d) and target (n,).
        open: patterns, (n, P).
        rho: of ADMM, for the loss ||.||^2 / 2 without 1 / n.
        P_S: P.
    """

    X: Any
    y: Any
    open: Any
    rho: float
    P_S: int

    def matvec_F(self, vec: Any) -> Any:  # noqa: N802
        """(2, d, P) -> (n,)."""
        return ((self.X @ vec[0]) * self.open).sum(1)

    def rmatvec_F(self, residual: Any) -> Any:  # noqa: N802
        """(n,) -> (2, d, P)."""
        import jax.numpy as jnp

        filters = self.X.T @ (self.open * residual[:, None])
        return jnp.stack([filters, jnp.zeros_like(filters)])

    def matvec_G(self, vec: Any) -> Any:  # noqa: N802
        """No constraint."""
        return 0.0 * vec[:1, :1, :1]

    def rmatvec_G(self, slack: Any) -> Any:  # noqa: N802
        """No constraint."""
        return 0.0 * slack

    def matvec_A(self, vec: Any) -> Any:  # noqa: N802
        """(F^T F / rho + I) vec."""
        return vec + self.rmatvec_F(self.matvec_F(vec)) / self.rho


class Sketched(GatedModel):
    """The model that the preconditioner sees: F^T F alone, as in CRONOS's own gated model; it adds rho itself."""

    def matvec_A(self, vec: Any) -> Any:  # noqa: N802
        """F^T F vec."""
        return self.rmatvec_F(self.matvec_F(vec))


def cronos(arrays: Arrays, options: dict[str, Any]) -> Solve:
    """ADMM with conjugate gradients in a randomized Nystrom preconditioner, float32.

    Options: rho, rank of the preconditioner, iterations of conjugate gradients at most.
    """
    import jax
    import jax.numpy as jnp
    from optimizers.cronos import CRONOS_State, cronos_step
    from preconditioner.nystrom import Nys_Precond, rand_nys_appx

    rows, features = arrays.patches.shape
    gates = arrays.open.shape[1]
    for kind in (GatedModel, Sketched):
        jax.tree_util.register_dataclass(kind, ["X", "y", "open"], ["rho", "P_S"])
    patches, target, patterns = (jnp.asarray(array) for array in (arrays.patches, arrays.target, arrays.open))
    model = GatedModel(patches, target, patterns, options["rho"], gates)
    sketched = Sketched(patches, target, patterns, options["rho"], gates)
    zero, none = jnp.zeros((2, features, gates)), jnp.zeros((1, 1, 1))
    start = CRONOS_State(u=zero, v=zero, s=none, lam=zero, nu=none, Gu=none)

    def preconditioner() -> Any:
        basis, values, _ = rand_nys_appx(sketched, options["rank"], "CReLU", jax.random.key(0))
        return Nys_Precond(basis, values, features, model.rho, gates, "CReLU")

    def step(state: Any, factor: Any, beta: float, number: int) -> Any:
        tolerance = 1 / (1 + number) ** 1.2
        return jax.block_until_ready(
            cronos_step(state, model, factor, beta * rows, 1.0, options["iterations"], tolerance)
        )

    step(start, preconditioner(), 1.0, 0)  # compiles

    def solve(trial: Trial) -> None:
        with trial.timed() as watch, suppress(ReachedError):
            state, factor, number, following = start, preconditioner(), 0, 0.0
            while True:
                state = step(state, factor, trial.beta, number)
                number += 1
                with watch.paused():
                    if watch.cpu >= following:
                        following = max(1.1 * watch.cpu, 0.1)
                        if trial.report(state.v[0].T, f"{number} steps"):
                            raise ReachedError

    return solve
