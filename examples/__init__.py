"""Tasks, each a config and the few files that it changes; docs/examples.md lists them."""
