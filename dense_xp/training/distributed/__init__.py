"""Training on several processes: ranks, reductions, shares of each batch, steps, callbacks, and what `fit` asks."""
