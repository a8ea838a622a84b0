"""``recompute`` is run by hand: it needs checkouts of the peers, and solvers that the tests do without."""

collect_ignore = ["recompute"]
