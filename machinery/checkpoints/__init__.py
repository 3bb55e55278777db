"""The checkpoints of a run: what is in them, how they become files, and how they go back.

`file` writes and reads one, whole or not at all; `run_folder` knows the files of a run, `run` its
owner and its records; `parts` finds what a trainer holds, `saving` writes it, `restoring` (with
`fitting` and `changes`) puts it back; `environment` says what a run is made of, `outcome` how it
ended. `base/` and machinery/launch call them.
"""
