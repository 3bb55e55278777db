"""Cross-validation, one run for each fold: python examples/tabular/folds.py -c examples/tabular/config.json"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from utils import catch_user_errors


def main() -> None:
    """Train each fold, then print a table with the best epoch of each, their mean and their spread."""
    catch_user_errors()
    parser = argparse.ArgumentParser(description="Cross-validation, one run for each fold.")
    parser.add_argument("-c", "--config", required=True, help="config file")
    parser.add_argument("--save_dir", help="where the runs go, in place of the config's trainer.save_dir")
    args = parser.parse_args()

    import pandas as pd

    import train
    from parse_config import ConfigParser

    rows = []
    folds = ConfigParser(args.config)["data_loader"]["args"]["folds"]
    for fold in range(folds):
        changes = {"data_loader;args;fold": fold, "trainer;save_dir": args.save_dir}
        trainer = train.main(ConfigParser(args.config, modification=changes))
        log = pd.read_csv(trainer.config.log_dir / "metrics.csv")
        best = log[log["epoch"] == trainer.monitor.best_epoch].iloc[0]
        rows.append({"epoch": trainer.monitor.best_epoch, **best.filter(like="val_")})
    table = pd.DataFrame(rows)
    name = trainer.monitor.name
    print(table.rename_axis("fold").to_string(float_format="%.4f"))
    print(f"{name}: {table[name].mean():.4f} ± {table[name].std():.4f} (mean and standard deviation of {folds} folds)")


if __name__ == "__main__":
    main()
