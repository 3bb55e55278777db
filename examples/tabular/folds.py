"""Cross-validation: python examples/tabular/folds.py -c examples/tabular/config.json"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from utils import catch_user_errors


def main() -> None:
    """Train each fold; print a table with the best epoch of each, their mean and their spread."""
    catch_user_errors()
    parser = argparse.ArgumentParser(description="Cross-validation, one run for each fold.")
    parser.add_argument("-c", "--config", required=True, help="config file")
    where = "where the runs go, in place of the config's trainer.save_dir"
    parser.add_argument("--save_dir", help=where)
    args = parser.parse_args()

    import pandas as pd

    import train
    from parse_config import ConfigParser

    rows = []
    folds = ConfigParser(args.config)["data_loader"]["args"]["folds"]
    for fold in range(folds):
        changes = {"data_loader;args;fold": fold, "trainer;save_dir": args.save_dir}
        trainer = train.main(ConfigParser(args.config, modification=changes))
        rows.append(best_row(trainer))
    table = pd.DataFrame(rows)
    name = trainer.monitor.name
    mean = table[name].mean()
    spread = table[name].std()
    print(table.rename_axis("fold").to_string(float_format="%.4f"))
    print(f"{name}: {mean:.4f} ± {spread:.4f} (mean and standard deviation of {folds} folds)")


def best_row(trainer: Any) -> dict[str, float]:
    """The best epoch of a run, and what it reached on the validation data."""
    import pandas as pd

    epoch = trainer.monitor.best_epoch
    log = pd.read_csv(trainer.config.log_dir / "metrics.csv").set_index("epoch")
    row = {"epoch": epoch}
    for name, value in log.loc[epoch].items():
        if name.startswith("val_"):
            row[name] = value
    return row


if __name__ == "__main__":
    main()
