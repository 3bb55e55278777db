"""What is checked, and told, around a run; nothing here knows a trainer or a config.

Before it, called by base/base_trainer.py and trainer/trainer.py: the settings (settings.py), the
methods of a class of the user's own (methods.py), what several processes cannot do (processes.py),
the networks (networks.py).
With the first batch, called by trainer/trainer.py: the loss (loss.py), the layers (layer_table.py).
"""
