"""Where work goes: here, or in shares to the workers of a Ray cluster.

    model.sweep(prompt, "z", over=("layer", "head"), metric=metric, on="ray")

    with on("ray:4"):  # the same four workers for all of it
        result = analysis(model, task)
        grid = model.sweep(...)

Shares are cut as on one machine and put together in their order, so that results are the same.
"""

from interp.mapping.where import HERE, current, on, over

__all__ = ["HERE", "current", "on", "over"]
