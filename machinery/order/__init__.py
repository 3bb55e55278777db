"""Which samples make up which batch, and what is random about them: by place alone.

`seeding` hashes a place to the seeds of all generators, `generators` finds those that a dataset
holds itself, and `draws` seeds what it draws from; `batches` says which samples a batch has, of
those that an owner's `choosing` leaves; `fetching` makes it, in this process or in a worker, and
hands it out, without what is `unreadable`; `passes` begins at any place, with new workers if a
`glance` at the dataset tells that it has changed; `standing` is where a stream stands, `twins` are
workers that read the same, and `shared_order` is one order for all processes of a machine;
`epochs` says how many batches one has, and gives them, while `waiting` measures; `split` cuts off
the validation samples; `bare` keeps the places of loops of the user's own, and `outstanding` knows
what a batch counts for in them. The data loader of `base/` and the trainer call them.
"""
