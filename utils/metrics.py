"""Where `MetricTracker` is, whatever a utils/util.py of your own has under that name."""

from machinery.update.metrics import MetricTracker as MetricTracker
