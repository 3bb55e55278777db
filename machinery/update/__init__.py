"""What surrounds an update: where and how it is computed, what it counts for, and what comes of it.

`group` is the door of an update; `runtime` device, precision and the optimizer's step;
`networks` modes and buffers; `together` keeps the weights of several processes the same; `metrics`
sums exact averages; `watching` looks for the best epoch, and for losses that are not finite.
The trainer calls them.
"""
