"""Networks, losses and metrics."""

#: Packages whose parts a config may name in full, beside those that it may in any case.
PACKAGES: tuple[str, ...] = ()
