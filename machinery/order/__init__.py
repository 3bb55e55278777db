"""Which samples make up which batch, and what is random about them: by place alone.

`seeding` hashes a place to the seeds of all generators, `generators` finds those that a dataset
holds itself; `batches` says which samples a batch has,
makes it, in this process or in a worker, and hands it out; `passes` begins at any place; `split`
cuts off the validation samples; `outstanding` knows what a batch counts for in a loop of the user's
own. The data loader of `base/` and the trainer call them.
"""
