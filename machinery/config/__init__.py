"""From the text of a config to checked values: positions, types, names and signatures. Imports no torch."""
