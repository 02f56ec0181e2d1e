"""The runs of a sweep of period models, composed once: that costs more than tuning a nano model."""

import json
from pathlib import Path

from conftest import nano
from test_conf import composed

from tasks import run_folder
from tasks.run import run


def sweep(root: Path, folder: Path, periods: list[str], *overrides: str, **data: str) -> dict:
    """Tunes them as `train.py -m data.period=…` does, into folders named like them below `folder`.

    Returns the folders by period. data: keys of data to replace.
    """
    named = {override.split("=")[0] for override in overrides}
    others = [a for a in nano(root, None) if a.split("=")[0] not in named]
    base = [] if "task.base" in named else [f"task.base={folder}"]
    config = run_folder.plain(composed(*overrides, *others, *base, f"data.period={periods[0]}"))
    config["data"] |= data
    for period in periods:
        # `composed` puts every folder into "somewhere".
        own = json.loads(json.dumps(config).replace("somewhere", str(folder / period)))
        own["data"]["period"] = own["task"]["period"] = period
        (folder / period).mkdir(parents=True)
        status = run_folder.Status(folder / period, continued=False, choices={}, overrides=[])
        run(own, folder / period, continued=False)
        status.end("finished")
    return {period: folder / period for period in periods}
