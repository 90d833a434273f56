"""What to say of a program that was not solved as exactly as was asked for."""

from convexrecon.convex.program_settings import BlockSolution, ProgramSettings


def shortfall(block: int, solved: BlockSolution, program: ProgramSettings) -> str | None:
    """A sentence with the gap reached and what to do, or None if the certificate reached the tolerance.

    Args:
        block: its number, from 1.
        solved: what was reached.
        program: what was asked for.
    """
    if solved.solution.converged:
        return None
    advice = []
    if program.max_iterations is not None:
        advice.append(f"more than max_iterations = {program.max_iterations}")
    if solved.method.name in ("matrix_free", "subsampled"):
        advice.append(f"method = 'statistics', for which memory_gb = {program.memory_gb:g} may have to be raised")
    ratio = solved.solution.beta / max(solved.beta_max, 1e-300)
    advice.append(f"a larger beta_ratio ({ratio:.1g} here)")
    return (
        f"block {block}: not solved to the tolerance asked for. Its certified relative gap is "
        f"{solved.solution.certificate.relative_gap:.1e}, after {solved.solution.iterations} iterations "
        f"({solved.method.name}); convex.program.tolerance = {program.tolerance:g}. It may be the optimum or not: "
        f"what is known is the gap. Try {', or '.join(advice)}"
    )
