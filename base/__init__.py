"""What every project shares: the base classes of data loaders, models and trainers."""

from base.base_data_loader import BaseDataLoader as BaseDataLoader, one_pass as one_pass
from base.base_model import BaseModel as BaseModel
from base.base_trainer import BaseTrainer as BaseTrainer, Log as Log
